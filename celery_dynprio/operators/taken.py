"""What workers of a queue have already: it starts, or started, before anything that is pending. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from celery_dynprio import message
from celery_dynprio.engine.scene import Taken
from celery_dynprio.models import PendingTask
from celery_dynprio.operators.workers import Workers
from celery_dynprio.untrusted import text_of

#: So many unacknowledged messages are looked at.
MOST: Final = 10_000


def taken_by(workers: Workers, queue: str, unacknowledged: Iterable[Mapping[str, Any]]) -> dict[str, list[Taken]]:
    """What each worker of a queue runs, then what it has reserved.

    ``unacknowledged`` are the headers of what all workers have. No message tells which worker has it: what does not
    run is dealt out to those that take tasks ahead. What waits for its time is left out.
    """
    names = workers.of_queue(queue)
    headers = {text_of(each.get("id"), message.MAX_ID): each for each in unacknowledged}
    found = {
        name: [Taken(_task(each.id, each.name, headers.get(each.id, {})), each.since) for each in running]
        for name, running in ((name, workers.running.get(name, ())) for name in names)
    }
    room = {name: workers.ahead.get(name, 0) for name in names}
    run = {each.id for running in workers.running.values() for each in running}
    for task_id, each in headers.items():
        name = text_of(each.get("task"), message.MAX_ID)
        if task_id and name and task_id not in run and each.get("eta") is None:
            roomiest = max(names, key=lambda worker: room[worker], default=None)
            if roomiest is None or not room[roomiest]:
                break
            room[roomiest] -= 1
            found[roomiest].append(Taken(_task(task_id, name, each), None))
    return found


def _task(task_id: str, name: str, headers: Mapping[str, Any]) -> PendingTask:
    fields = headers.get(message.HEADER)
    key = text_of(fields.get("key"), message.MAX_KEY) if isinstance(fields, Mapping) else ""
    return PendingTask(task_id, name, 0.0, key=key or None)
