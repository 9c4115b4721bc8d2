"""Start-up checks: reads what :mod:`celery_dynprio.checks` judges.

``celery -A proj dynprio doctor`` shows all findings; a worker logs the cheap ones once at its start.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from celery import bootsteps
from redis.exceptions import RedisError

from celery_dynprio import message
from celery_dynprio.backlogs.redis_client import BROKER_ERRORS, REDIS_TRANSPORTS, RedisClient
from celery_dynprio.checks import (
    KOMBU_VISIBILITY,
    Broker,
    Facts,
    Finding,
    check_broker,
    check_conf,
    check_messages,
    check_workers,
)
from celery_dynprio.errors import BrokerUnavailableError, UnsupportedBrokerError
from celery_dynprio.learned import RedisUsage
from celery_dynprio.models import PendingTask
from celery_dynprio.usable import UsableLevels
from celery_dynprio.workers import Taker, takers

if TYPE_CHECKING:
    from celery import Celery

    from celery_dynprio.settings import Settings

logger = logging.getLogger(__name__)

#: How many of the newest messages of each level are looked at for clocks that run ahead.
SAMPLE: Final = 10


def look(client: RedisClient) -> Broker:
    """Ask a Redis about itself, in one round trip."""
    pipe = client.redis.pipeline(transaction=False)
    pipe.info()
    pipe.config_get("save")
    before = time.time()
    pipe.time()
    info, save, clock = pipe.execute(raise_on_error=False)
    after = time.time()
    for answer in (info, clock):
        if isinstance(answer, RedisError):
            raise answer
    theirs = clock[0] + clock[1] / 1e6
    return Broker(
        version=str(info.get("redis_version", "")),
        eviction=str(info.get("maxmemory_policy", "")),
        aof=bool(info.get("aof_enabled")),
        snapshots=None if isinstance(save, RedisError) else save.get("save"),  # managed services forbid CONFIG
        # The answer was made at some moment between: what that explains is no skew.
        skew=max(theirs - after, 0.0) + min(theirs - before, 0.0),
    )


def gather(app: Celery, client: RedisClient, settings: Settings, timeout: float = 2.0) -> Facts:
    """Read what the checks need; ``timeout`` (seconds) is how long workers may take to answer."""
    steps = tuple(client.priority_steps)
    runtimes, _ = RedisUsage(client, settings.half_life).read(time.time())
    takers, confs = _workers(app, settings.queues, timeout)
    return Facts(
        broker=look(client),
        steps=steps,
        plain=[steps[level] for level in client.plain_levels],
        workers=confs,
        stranded=_stranded(client, settings.queues, takers),
        unpolled=_unpolled(client, settings.queues),
        ahead=max((_ahead(client, queue) for queue in settings.queues), default=0.0),
        longest=max(((seconds, name) for name, seconds in runtimes.items()), default=None),
    )


def _workers(app: Celery, queues: Sequence[str], timeout: float) -> tuple[list[Taker], dict[str, Mapping[str, Any]]]:
    """Where the workers that answer and consume one of the queues take tasks from; and their settings, by name."""
    found = {name: each for name, each in takers(app, timeout).items() if not each[0].queues.isdisjoint(queues)}
    return [taker for taker, _ in found.values()], {name: conf for name, (_, conf) in found.items()}


def _stranded(client: RedisClient, queues: Sequence[str], workers: Sequence[Taker]) -> dict[str, int]:
    """Messages in our lists from which none of these workers takes; without any, in those that not all would."""
    found: dict[str, int] = {}
    for queue in queues:
        served = [taker.steps for taker in workers if queue in taker.queues]
        polled = frozenset.union(*served) if served else {client.priority_steps[level] for level in client.plain_levels}
        levels = [level for level, step in enumerate(client.priority_steps) if step in polled]
        found |= UsableLevels(client, queue).strays(levels)
    return found


def _unpolled(client: RedisClient, queues: Sequence[str]) -> dict[str, int]:
    """Messages in the lists of steps that others may use and we do not."""
    others = sorted({*message.KOMBU_STEPS, *range(10)} - set(client.priority_steps))
    found = {}
    for queue in queues:
        for step in others:
            key = f"{client.prefix}{queue}{client.sep}{step}" if step else f"{client.prefix}{queue}"
            if count := client.redis.llen(key):
                found[key] = int(count)
    return found


def _ahead(client: RedisClient, queue: str) -> float:
    now = client.server_time()
    farthest = 0.0
    for level in range(len(client.priority_steps)):
        raws: Any = client.redis.lrange(client.level_key(queue, level), 0, SAMPLE - 1)
        for raw in raws:
            task = message.parse(raw, now, client.priority_steps)
            if isinstance(task, PendingTask):
                farthest = max(farthest, task.published - now)
    return farthest


def examine(app: Celery, settings: Settings, timeout: float = 2.0) -> list[Finding]:
    """Run all checks; a broker that cannot be used is a finding, not an error.

    ``timeout`` (seconds) is how long workers may take to answer.
    """
    findings = check_conf(app.conf)
    try:
        client = RedisClient.from_app(app)
    except (BrokerUnavailableError, UnsupportedBrokerError) as exc:
        return [*findings, Finding("error", "broker", str(exc))]
    try:
        facts = gather(app, client, settings, timeout)
    except BROKER_ERRORS as exc:
        return [*findings, Finding("error", "broker", f"the broker stopped answering: {exc}")]
    finally:
        client.close()
    visibility = (app.conf.broker_transport_options or {}).get("visibility_timeout", KOMBU_VISIBILITY)
    return [
        *findings,
        *check_broker(facts.broker),
        *check_messages(facts, visibility, late=bool(app.conf.task_acks_late)),
        *check_workers(facts.workers, facts.steps, facts.plain),
    ]


class StartupChecks(bootsteps.StartStopStep):
    """A step of a worker's consumer that logs the cheap findings once, when the broker is first reached."""

    requires = ("celery.worker.consumer.connection:Connection",)
    _done = False

    def include_if(self, parent: Any) -> bool:
        """Whether the broker can have managed queues at all; the app itself says if not."""
        return bool(parent.app.connection_for_write().transport.driver_type in REDIS_TRANSPORTS)

    def start(self, c: Any) -> None:
        """Check, unless this is a reconnection."""
        if self._done:
            return
        self._done = True
        try:
            client = RedisClient.from_app(c.app)
        except BrokerUnavailableError as exc:
            logger.warning("start-up checks skipped: %s", exc)
            return
        try:
            findings = [*check_conf(_effective(c)), *check_broker(look(client))]
        except BROKER_ERRORS as exc:
            logger.warning("start-up checks skipped: %s", exc)
        else:
            for finding in findings:
                if finding.level != "ok":
                    logger.warning("%s: %s", finding.check, finding.text)
        finally:
            client.close()


def _effective(c: Any) -> dict[str, Any]:
    """The settings that this worker runs with: the command line may have changed the prefetch multiplier."""
    names = ("worker_disable_prefetch", "broker_transport_options", "task_acks_late")
    return {**{name: c.app.conf.get(name) for name in names}, "worker_prefetch_multiplier": c.prefetch_multiplier}
