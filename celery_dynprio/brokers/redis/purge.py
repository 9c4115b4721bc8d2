"""``celery purge`` of a managed queue empties its parked places too, so that nothing comes back afterwards.

``celery purge``, ``app.control.purge``, ``celery worker --purge`` and ``celery amqp queue.purge`` all end in
``queue_purge`` of a channel, and kombu's Redis transport deletes the lists only (``Channel._purge``). So the app gets
connections whose channels do more. Whoever purges by another app, or by hand, has to drain first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final

from kombu.connection import ConnectionPool

#: What a purge leaves alone are cancelled tasks: their ends are about to be told.
_PARKED: Final = ("overflow", "held")


def purging(base: Any, queues: Callable[[], Collection[str]]) -> Any:
    """A class of connections as ``base``, whose channels purge what is parked as well; ``queues`` are the managed."""

    class Pool(ConnectionPool):
        def new(self) -> Any:
            connection = super().new()  # of kombu's own class
            make_channel = connection.channel
            connection.channel = lambda: _purging(make_channel(), queues)
            return connection

    class Purging(base):
        def channel(self) -> Any:
            return _purging(super().channel(), queues)

        def Pool(self, limit: int | None = None, **kwargs: Any) -> Any:  # noqa: N802 - kombu's name
            return Pool(self, limit, **kwargs)

        def __reduce__(self) -> Any:
            return base, *super().__reduce__()[1:]

    Purging.__name__ = base.__name__
    Purging.__qualname__ = base.__qualname__
    return Purging


def _purging(channel: Any, queues: Callable[[], Collection[str]]) -> Any:
    """The channel, which is nobody else's yet; it purges more if it is one of kombu's for Redis."""
    if getattr(channel.connection, "driver_type", "") != "redis":
        return channel
    purge_front = channel.queue_purge

    def queue_purge(queue: str, **kwargs: Any) -> int:
        if queue not in queues():
            return int(purge_front(queue, **kwargs))
        # The parked twice: a reprioritizer may park meanwhile, or bring back.
        return purge_parked(channel, queue) + int(purge_front(queue, **kwargs)) + purge_parked(channel, queue)

    channel.queue_purge = queue_purge
    return channel


def purge_parked(channel: Any, queue: str) -> int:
    """Delete what is parked of a queue, overflow and held; return how many messages that were."""
    import redis  # noqa: PLC0415 - slow to import, and only who purges needs it

    pipe = redis.Redis(connection_pool=channel.pool).pipeline(transaction=True)
    for what in _PARKED:
        key = f"{channel.global_keyprefix}dynprio:{queue}:{what}"  # as RedisClient.queue_key
        pipe.hlen(key)
        pipe.unlink(key)
    return sum(map(int, pipe.execute()[::2]))
