"""The broker's Redis, reached as kombu reaches it: Sentinel, TLS, credentials and key prefix are the user's own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import redis
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from celery_dynprio.brokers.redis.trouble import explained
from celery_dynprio.errors import BrokerRefusedError, BrokerUnavailableError, UnsupportedBrokerError
from celery_dynprio.hosting.connections import new_connection
from celery_dynprio.levels import Scale

if TYPE_CHECKING:
    from celery import Celery
    from redis.commands.core import Script

#: What a broker that is away, restarting or failing over raises.
BROKER_ERRORS: Final = (RedisError, OperationalError, OSError)

#: kombu's names of the transports that keep a queue in Redis lists.
REDIS_TRANSPORTS: Final = frozenset({"redis"})


#: Seconds for which the broker's clock is reckoned from this process's own, until it is asked again.
SYNC: Final = 0.5


class RedisClient:
    """A connection to the broker, the names of its keys, and the scripts that run there.

    Raises :class:`~celery_dynprio.errors.BrokerUnavailableError` if the broker does not answer and
    :class:`~celery_dynprio.errors.UnsupportedBrokerError` if it is no Redis.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        try:
            if connection.transport.driver_type not in REDIS_TRANSPORTS:
                raise UnsupportedBrokerError(
                    f"broker {connection.as_uri()!r}: managed queues need Redis (redis://, rediss:// or sentinel://)"
                )
            connection.connect()
            self._channel = connection.channel()
        except BROKER_ERRORS as exc:
            connection.release()
            what = explained(exc)
            said = f": {what}" if isinstance(what, BrokerRefusedError) else f" does not answer: {exc}"
            raise BrokerUnavailableError(f"broker {connection.as_uri()}{said}") from exc
        self.prefix: str = self._channel.global_keyprefix
        self.sep: str = self._channel.sep
        #: The hash of the messages that workers have and did not acknowledge, of all queues.
        self.unacked_key = f"{self.prefix}{self._channel.unacked_key}"
        #: How kombu numbers the levels.
        self.scale = Scale.of(self._channel.priority_steps)
        #: The app's ``task_default_priority``, if the app is known.
        self.default_priority: int | None = None
        # A plain client: kombu's own prefixes only the first key of EVALSHA. It has the pool in which the channel has
        # connected already, to see whether the broker answers: the other one would open a second connection. Untyped,
        # because redis-py types each answer as bytes or str, and this pool decodes nothing.
        self.redis: Any = redis.Redis(connection_pool=self._channel.client.connection_pool)

    @classmethod
    def from_app(cls, app: Celery, timeout: float | None = None) -> RedisClient:
        """Connect as the app's producers do, but give up on a silent broker after ``timeout`` seconds.

        None leaves what the app's transport options say, or else a few seconds.
        """
        client = cls(new_connection(app, timeout))
        client.default_priority = app.conf.task_default_priority
        return client

    def level_key(self, queue: str, level: int) -> str:
        """The list in which kombu keeps this level of the queue (the rule of kombu's ``Channel._q_for_pri``)."""
        priority = self.scale.numbers[level]
        return f"{self.prefix}{queue}{self.sep}{priority}" if priority else f"{self.prefix}{queue}"

    def queue_key(self, queue: str, what: str) -> str:
        """A key of ours about one queue."""
        return f"{self.prefix}dynprio:{queue}:{what}"

    def app_key(self, what: str) -> str:
        """A key of ours about the whole broker."""
        return f"{self.prefix}dynprio:{what}"

    def script(self, name: str, *before: str) -> Script:
        """The Lua script ``lua/<name>.lua``, behind those that it needs; it loads itself again after a restart."""
        registered: Script = self.redis.register_script("\n".join(map(_text_of, (*before, name))))
        return registered

    def server_time(self) -> float:
        """The broker's clock, Unix seconds."""
        seconds, microseconds = self.redis.time()
        return float(seconds) + float(microseconds) / 1e6

    @property
    def connection(self) -> Any:
        """The connection, which is kombu's."""
        return self._connection

    @property
    def channel(self) -> Any:
        """Kombu's channel, which makes messages of what lies in the broker."""
        return self._channel

    def rest(self) -> None:
        """Close what is connected until there is another command; not while one is under way in another thread."""
        self.redis.connection_pool.disconnect()

    def close(self) -> None:
        """Close all connections."""
        self._connection.release()


@cache
def _text_of(script: str) -> str:
    return (files(__package__) / "lua" / f"{script}.lua").read_text(encoding="utf-8")


class BrokerClock:
    """The broker's clock, Unix seconds: what one process writes into messages, all others read.

    It is asked at most once in :data:`SYNC` seconds, and reckoned in between by ``clock``, which never goes back.
    """

    def __init__(self, client: RedisClient, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._ahead = 0.0
        self._asked = -math.inf

    def __call__(self) -> float:
        """The time now."""
        now = self._clock()
        if now - self._asked > SYNC:
            self._ahead = self._client.server_time() - self._clock()
            self._asked = now
        return self._clock() + self._ahead
