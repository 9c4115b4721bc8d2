"""Reads which workers take from the managed queues, who leads them, and what waits there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from celery_dynprio.doctor.queue_checks import Pause, Queue, Traffic
from celery_dynprio.models import OVERFLOW, is_level
from celery_dynprio.operators.moments import moment
from celery_dynprio.operators.workers import Taker
from celery_dynprio.ports.broker import Broker
from celery_dynprio.untrusted import clean

if TYPE_CHECKING:
    from celery import Celery

    from celery_dynprio.settings import Settings

#: The newest messages of each level are looked at, so many at most.
SAMPLE: Final = 10


@dataclass(frozen=True, slots=True)
class Survey:
    """What was read of all managed queues."""

    traffic: Traffic
    #: Seconds by which a message was published in the broker's future, at most.
    ahead: float


@dataclass(slots=True)
class _Sample:
    looked: int = 0
    foreign: Counter[str] = field(default_factory=Counter)
    ahead: float = 0.0


def survey(
    app: Celery, broker: Broker, settings: Settings, workers: Mapping[str, tuple[Taker, Mapping[str, Any]]]
) -> Survey:
    """Look at all managed queues; ``workers`` are those that answered, by node name, with their settings."""
    routed = known_queues(app)
    consumed = {name: taker.queues for name, (taker, _) in workers.items()}
    samples = {queue: _sample(broker, queue) for queue in settings.queues}
    managed = {name: queues for name, queues in consumed.items() if not queues.isdisjoint(settings.queues)}
    # As far as its settings tell, a worker has the add-on if it has our levels.
    added = {name for name in managed if workers[name][0].steps == frozenset(broker.scale.numbers)}
    traffic = Traffic(
        _queues(broker, settings.queues, consumed, routed, samples),
        known={*(routed or ()), *chain.from_iterable(consumed.values())},
        workers=list(consumed),
        candidates=[name for name in added if workers[name][1].get("dynprio_embedded", True)],
        mixed={
            name: sorted(others)
            for name, queues in managed.items()
            if name not in added and (others := queues - set(settings.queues))
        },
        pause=_pause(app, broker),
    )
    return Survey(traffic, max((sample.ahead for sample in samples.values()), default=0.0))


def _queues(
    broker: Broker,
    queues: Sequence[str],
    consumed: Mapping[str, Collection[str]],
    routed: Collection[str] | None,
    samples: Mapping[str, _Sample],
) -> list[Queue]:
    counts = broker.counts(queues)
    return [
        Queue(
            queue,
            sorted(worker for worker, names in consumed.items() if queue in names),
            routed=routed is None or queue in routed,
            plain=counts[queue][0],
            front=sum(count for place, count in counts[queue].items() if is_level(place)),
            overflow=counts[queue][OVERFLOW],
            leader=_leader(broker, queue),
            sampled=samples[queue].looked,
            foreign=samples[queue].foreign,
        )
        for queue in queues
    ]


def known_queues(app: Celery) -> set[str] | None:
    """Return the queues that this app sends tasks to; None if a router of the user's own decides that."""
    found = {*app.amqp.queues, str(app.conf.task_default_queue)}
    found |= {str(task.queue) for task in app.tasks.values() if getattr(task, "queue", None)}
    routes = app.conf.task_routes or ()
    try:  # as celery.app.routes.prepare and MapRoute read them
        for each in routes if isinstance(routes, (list, tuple)) else (routes,):
            for _, options in each.items() if isinstance(each, Mapping) else each:
                queue = options.get("queue") if isinstance(options, Mapping) else options
                found |= {str(getattr(queue, "name", queue))} if queue is not None else set()
    except (TypeError, ValueError):  # a function, the name of one, or what Celery does not understand either
        return None
    return found


def _sample(broker: Broker, queue: str) -> _Sample:
    now, sample = broker.clock(), _Sample()
    for task in broker.health.newest(queue, SAMPLE):
        sample.looked += 1
        if isinstance(task, str):
            sample.foreign[task] += 1
        else:
            sample.ahead = max(sample.ahead, task.published - now)
    return sample


def _leader(broker: Broker, queue: str) -> str:
    holder = broker.lease(queue, "").holder()
    return "" if holder is None else clean(f"{holder.owner} ({holder.kind})")


def _pause(app: Celery, broker: Broker) -> Pause | None:
    if not broker.stores.switch().paused():
        return None
    entry = broker.stores.audit().last_pause()
    if entry is None:
        return Pause()
    since = moment(entry.at, app.timezone)
    return Pause(since, entry.by, entry.why or (f"{entry.op} pauses" if entry.op == "drain" else ""))
