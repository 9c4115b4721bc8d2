"""Reads what the checks judge, and runs all of them: ``celery -A proj dynprio doctor`` shows what they find."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import celery

from celery_dynprio.doctor.checks import KOMBU_VISIBILITY, Facts, check_conf, check_messages, check_workers
from celery_dynprio.doctor.queue_checks import check_traffic
from celery_dynprio.doctor.survey import survey
from celery_dynprio.errors import BrokerRefusedError, BrokerUnavailableError, UnsupportedBrokerError
from celery_dynprio.operators.workers import Taker, takers
from celery_dynprio.ports.broker import Broker
from celery_dynprio.ports.health import Finding
from celery_dynprio.ports.installation import Installation
from celery_dynprio.settings import Settings

#: The first Celery that knows worker_disable_prefetch; an older one takes the setting and does nothing.
DISABLES_PREFETCH: Final = (5, 6)

#: By node name, workers that answered and their settings.
Workers: TypeAlias = Mapping[str, tuple[Taker, Mapping[str, Any]]]


def examine(installation: Installation, timeout: float = 2.0) -> list[Finding]:
    """Run all checks; a broker that cannot be used is a finding, not an error.

    ``timeout`` (seconds) is how long workers may take to answer.
    """
    findings = check_conf(understood(installation.app.conf))
    try:
        broker = installation.connect()
    except (BrokerRefusedError, BrokerUnavailableError, UnsupportedBrokerError) as exc:
        return [*findings, Finding("error", "broker", str(exc))]
    rights: list[Finding] = []
    try:
        rights = broker.health.check_rights(installation.settings.queues)
        return [*findings, *rights, *_examine(installation, broker, timeout)]
    except broker.errors.any as exc:  # the broker is away, or refuses what is among the missing rights already
        return [*findings, *(rights or [Finding("error", "broker", str(broker.errors.explain(exc)))])]
    finally:
        broker.close()


def _examine(installation: Installation, broker: Broker, timeout: float) -> list[Finding]:
    app, settings = installation.app, installation.settings
    findings = broker.health.check_server()
    workers: Workers = {}
    answers = True
    try:
        workers = {name: (taker, understood(conf)) for name, (taker, conf) in takers(app, timeout).items()}
    except broker.errors.any as exc:  # asking is a write, which a server that is full or a replica refuses
        findings.append(Finding("warning", "workers", f"they could not be asked: {exc}"))
        answers = False
    surveyed = survey(app, broker, settings, workers)
    managed = {name: each for name, each in workers.items() if not each[0].queues.isdisjoint(settings.queues)}
    facts = gather(broker, settings, managed, surveyed.ahead)
    visibility = (app.conf.broker_transport_options or {}).get("visibility_timeout", KOMBU_VISIBILITY)
    return [
        *findings,
        *check_messages(facts, visibility, late=bool(app.conf.task_acks_late)),
        *(check_workers(facts.workers, facts.steps, facts.plain) if answers else ()),
        *check_traffic(surveyed.traffic),
    ]


def gather(broker: Broker, settings: Settings, workers: Workers, ahead: float) -> Facts:
    """Read what is judged of workers and messages, published up to ``ahead`` seconds in the broker's future."""
    scale = broker.scale
    runtimes = broker.stores.usage(settings.half_life).read(time.time()).runtimes
    return Facts(
        steps=scale.numbers,
        plain=[scale.numbers[level] for level in scale.plain],
        workers={name: conf for name, (_, conf) in workers.items()},
        stranded=_stranded(broker, settings.queues, [taker for taker, _ in workers.values()]),
        unpolled=broker.health.unpolled(settings.queues),
        ahead=ahead,
        longest=max(((seconds, name) for name, seconds in runtimes.items()), default=None),
    )


def _stranded(broker: Broker, queues: Sequence[str], workers: Sequence[Taker]) -> dict[str, int]:
    """Messages in levels that none of these workers takes from; without workers, in levels that are not plain."""
    found: dict[str, int] = {}
    numbers = broker.scale.numbers
    for queue in queues:
        served = [taker.steps for taker in workers if queue in taker.queues]
        polled = frozenset.union(*served) if served else {numbers[level] for level in broker.scale.plain}
        found |= broker.levels(queue).strays([level for level, number in enumerate(numbers) if number in polled])
    return found


def understood(conf: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings of an app or a worker without those that this version of Celery ignores."""
    if celery.VERSION[:2] >= DISABLES_PREFETCH:
        return conf
    names = ("worker_prefetch_multiplier", "broker_transport_options", "task_acks_late", "dynprio_embedded")
    return {name: conf[name] for name in names if name in conf}
