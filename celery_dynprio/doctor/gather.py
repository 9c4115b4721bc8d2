"""What is wrong with a deployment: reads what the checks judge.

``celery -A proj dynprio doctor`` shows all findings; a worker logs the cheap ones once at its start.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import celery
from celery import bootsteps
from redis.exceptions import NoPermissionError, RedisError

from celery_dynprio import message
from celery_dynprio.brokers.redis.client import BROKER_ERRORS, REDIS_TRANSPORTS, RedisClient
from celery_dynprio.brokers.redis.rights import missing
from celery_dynprio.brokers.redis.trouble import explained
from celery_dynprio.brokers.redis.usable import RedisUsableLevels
from celery_dynprio.brokers.redis.usage import RedisUsage
from celery_dynprio.doctor.broker_checks import Broker, check_broker, check_rights
from celery_dynprio.doctor.checks import KOMBU_VISIBILITY, Facts, Finding, check_conf, check_messages, check_workers
from celery_dynprio.doctor.queue_checks import check_routes, check_traffic
from celery_dynprio.doctor.survey import known_queues, survey
from celery_dynprio.errors import BrokerUnavailableError, UnsupportedBrokerError
from celery_dynprio.operators.workers import Taker, takers
from celery_dynprio.settings import Settings

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger("celery_dynprio.doctor")

#: The first Celery that knows worker_disable_prefetch; an older one takes the setting and does nothing.
DISABLES_PREFETCH: Final = (5, 6)


def look(client: RedisClient) -> Broker:
    """Ask a Redis about itself, in one round trip."""
    pipe = client.redis.pipeline(transaction=False)
    pipe.info()
    for name in ("save", "maxclients", "min-replicas-to-write"):  # several at once from Redis 7 on
        pipe.config_get(name)
    before = time.time()
    pipe.time()
    info, *config, clock = pipe.execute(raise_on_error=False)
    after = time.time()
    for answer in (info, clock):
        if isinstance(answer, RedisError) and not isinstance(answer, NoPermissionError):
            raise answer
    skew = 0.0
    if not isinstance(clock, RedisError):
        theirs = clock[0] + clock[1] / 1e6
        # The answer was made at some moment between: what that explains is no skew.
        skew = max(theirs - after, 0.0) + min(theirs - before, 0.0)
    if isinstance(info, RedisError):
        return Broker(None, skew=skew)
    said: dict[str, Any] = {}
    for answer in config:
        said |= {} if isinstance(answer, RedisError) else answer  # managed services forbid CONFIG
    return _broker(info, said, skew)


def _broker(info: Mapping[str, Any], config: Mapping[str, Any], skew: float) -> Broker:
    maxclients = config.get("maxclients") or info.get("maxclients")
    min_replicas = config.get("min-replicas-to-write")
    if min_replicas is None and "min_slaves_good_slaves" in info:  # there only if some are asked for
        min_replicas = 1
    return Broker(
        version=str(info.get("redis_version", "")),
        eviction=info.get("maxmemory_policy"),
        aof=bool(info.get("aof_enabled")),
        snapshots=config.get("save"),
        skew=skew,
        memory=int(info.get("used_memory", 0)),
        maxmemory=int(info.get("maxmemory", 0)),
        connections=int(info.get("connected_clients", 0)),
        maxclients=None if maxclients is None else int(maxclients),
        primary=info.get("role", "master") == "master",
        replicas=int(info.get("connected_slaves", 0)),
        min_replicas=None if min_replicas is None else int(min_replicas),
    )


def gather(
    client: RedisClient, settings: Settings, workers: Mapping[str, tuple[Taker, Mapping[str, Any]]], ahead: float
) -> Facts:
    """Read what is judged of workers (by name) and messages, published up to ``ahead`` s in the broker's future."""
    steps = tuple(client.priority_steps)
    runtimes, _ = RedisUsage(client, settings.half_life).read(time.time())
    return Facts(
        steps=steps,
        plain=[steps[level] for level in client.plain_levels],
        workers={name: conf for name, (_, conf) in workers.items()},
        stranded=_stranded(client, settings.queues, [taker for taker, _ in workers.values()]),
        unpolled=_unpolled(client, settings.queues),
        ahead=ahead,
        longest=max(((seconds, name) for name, seconds in runtimes.items()), default=None),
    )


def _stranded(client: RedisClient, queues: Sequence[str], workers: Sequence[Taker]) -> dict[str, int]:
    """Messages in our lists from which none of these workers takes; without any, in those that not all would."""
    found: dict[str, int] = {}
    for queue in queues:
        served = [taker.steps for taker in workers if queue in taker.queues]
        polled = frozenset.union(*served) if served else {client.priority_steps[level] for level in client.plain_levels}
        levels = [level for level, step in enumerate(client.priority_steps) if step in polled]
        found |= RedisUsableLevels(client, queue).strays(levels)
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


def examine(app: Celery, settings: Settings, timeout: float = 2.0) -> list[Finding]:
    """Run all checks; a broker that cannot be used is a finding, not an error.

    ``timeout`` (seconds) is how long workers may take to answer.
    """
    findings = check_conf(_judged(app.conf))
    try:
        client = RedisClient.from_app(app)
    except (BrokerUnavailableError, UnsupportedBrokerError) as exc:
        return [*findings, Finding("error", "broker", str(exc))]
    rights: list[Finding] = []
    try:
        lacks = missing(client, settings.queues)
        user = app.connection_for_write().userid or "default"
        rights = check_rights(str(lacks), lacks.rules(client.prefix), user)
        return [*findings, *rights, *_examine(app, client, settings, timeout)]
    except BROKER_ERRORS as exc:  # refused, for a right that is named already, or away
        return [*findings, *(rights or [Finding("error", "broker", str(explained(exc)))])]
    finally:
        client.close()


def _examine(app: Celery, client: RedisClient, settings: Settings, timeout: float) -> list[Finding]:
    findings = check_broker(look(client))
    found: dict[str, tuple[Taker, Mapping[str, Any]]] = {}
    asked = True
    try:
        found = {name: (taker, _judged(conf)) for name, (taker, conf) in takers(app, timeout).items()}
    except BROKER_ERRORS as exc:  # a question is written to the broker, and one that is full or a replica refuses that
        findings.append(Finding("warning", "workers", f"they could not be asked: {exc}"))
        asked = False
    surveyed = survey(app, client, settings, found)
    managed = {name: each for name, each in found.items() if not each[0].queues.isdisjoint(settings.queues)}
    facts = gather(client, settings, managed, surveyed.ahead)
    visibility = (app.conf.broker_transport_options or {}).get("visibility_timeout", KOMBU_VISIBILITY)
    return [
        *findings,
        *check_messages(facts, visibility, late=bool(app.conf.task_acks_late)),
        *(check_workers(facts.workers, facts.steps, facts.plain) if asked else ()),
        *check_traffic(surveyed.traffic),
    ]


def _judged(conf: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings of an app or a worker, without what this version of Celery makes nothing of."""
    if celery.VERSION[:2] >= DISABLES_PREFETCH:
        return conf
    names = ("worker_prefetch_multiplier", "broker_transport_options", "task_acks_late", "dynprio_embedded")
    return {name: conf[name] for name in names if name in conf}


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
            routed = check_routes(Settings.from_app(c.app).queues, known_queues(c.app))
            findings = [*check_conf(_judged(_effective(c))), *check_broker(look(client)), *routed]
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
