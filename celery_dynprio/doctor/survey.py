"""Reads who takes from the managed queues, who leads them, and what waits there, for the doctor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from celery_dynprio import message
from celery_dynprio.brokers.redis.audit import RedisAudit
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.counts import count_places
from celery_dynprio.brokers.redis.lease import RedisLease
from celery_dynprio.brokers.redis.reading import Reader
from celery_dynprio.brokers.redis.switch import RedisSwitch
from celery_dynprio.doctor.queue_checks import Pause, Queue, Traffic
from celery_dynprio.models import OVERFLOW, is_level
from celery_dynprio.operators.moments import moment
from celery_dynprio.operators.workers import Taker

if TYPE_CHECKING:
    from celery import Celery

    from celery_dynprio.settings import Settings

#: How many of the newest messages of each level are looked at.
SAMPLE: Final = 10


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found; ``ahead`` is how many seconds in the broker's future a message was published, at most."""

    traffic: Traffic
    ahead: float


@dataclass(slots=True)
class _Sample:
    looked: int
    foreign: Counter[str]
    ahead: float


def survey(
    app: Celery,
    client: RedisClient,
    settings: Settings,
    workers: Mapping[str, tuple[Taker, Mapping[str, Any]]],
) -> Survey:
    """Look at all managed queues; ``workers`` are those that answered, by name, with their settings."""
    known, taken = known_queues(app), {name: taker.queues for name, (taker, _) in workers.items()}
    counts = count_places(client, settings.queues)
    samples = {queue: _sample(client, queue) for queue in settings.queues}
    queues = [
        Queue(
            queue,
            sorted(worker for worker, names in taken.items() if queue in names),
            routed=known is None or queue in known,
            plain=counts[queue][0],
            front=sum(count for place, count in counts[queue].items() if is_level(place)),
            overflow=counts[queue][OVERFLOW],
            leader=_leader(client, queue),
            sampled=samples[queue].looked,
            foreign=samples[queue].foreign,
        )
        for queue in settings.queues
    ]
    managed = {name: names for name, names in taken.items() if not names.isdisjoint(settings.queues)}
    # As far as its settings tell, a worker has the add-on if it has our levels.
    added = {name for name in managed if workers[name][0].steps == frozenset(client.priority_steps)}
    traffic = Traffic(
        queues,
        known={*(known or ()), *(name for names in taken.values() for name in names)},
        workers=list(taken),
        candidates=[name for name in added if workers[name][1].get("dynprio_embedded", True)],
        mixed={
            name: sorted(others)
            for name, names in managed.items()
            if name not in added and (others := names - set(settings.queues))
        },
        pause=_pause(app, client),
    )
    return Survey(traffic, max((sample.ahead for sample in samples.values()), default=0.0))


def known_queues(app: Celery) -> set[str] | None:
    """The queues that this app sends tasks to; None if a router of the user's own decides that."""
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


def _sample(client: RedisClient, queue: str) -> _Sample:
    """Look at the newest messages of each level; at fewer where they are large."""
    now, reader = client.server_time(), Reader(client)
    sample = _Sample(0, Counter(), 0.0)
    for level in range(len(client.priority_steps)):
        key = client.level_key(queue, level)
        for _, raw in reader.look(key, 0, SAMPLE).found:
            task = message.TOO_LARGE if isinstance(raw, int) else message.parse(raw, now, client.priority_steps)
            sample.looked += 1
            if isinstance(task, str):
                sample.foreign[task] += 1
            else:
                sample.ahead = max(sample.ahead, task.published - now)
    return sample


def _leader(client: RedisClient, queue: str) -> str:
    holder = RedisLease(client, queue, "").holder()
    return "" if holder is None else message.clean(f"{holder.owner} ({holder.kind})")


def _pause(app: Celery, client: RedisClient) -> Pause | None:
    if not RedisSwitch(client).paused():
        return None
    entry = RedisAudit(client).last_pause()
    if entry is None:
        return Pause()
    since = moment(entry.at, app.timezone)
    return Pause(since, entry.by, entry.why or (f"{entry.op} pauses" if entry.op == "drain" else ""))
