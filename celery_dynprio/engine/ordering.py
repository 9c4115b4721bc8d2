"""The order in which pending tasks are expected to run, and when. Pure.

Workers take the front by level, and within a level in the order of arrival. The overflow follows, best first, then
the tasks that yield to an objective. Held tasks have no turn.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from celery_dynprio.models import HELD, OVERFLOW, PendingTask, Place, Snapshot, nothing_ahead


@dataclass(frozen=True, slots=True)
class Turn:
    """One pending task in the order of its queue."""

    queue: str
    task: PendingTask
    place: Place
    #: 1 for the task that runs next; None for a held one.
    position: int | None
    #: In [0, 1], by the policy, now.
    score: float
    #: Seconds since it was published.
    waited: float
    #: Unix seconds at which it is expected to start; None if unknown: it is held, it yields to an objective, no worker
    #: is up, or no runtime was learned yet.
    expected: float | None = None
    #: Expected seconds of the pending tasks of its key that count as before it.
    ahead: float = 0.0


def order(
    queue: str,
    snapshot: Snapshot,
    held: Iterable[PendingTask],
    score: Callable[[PendingTask], float],
    now: float,
    *,
    yields: Callable[[PendingTask], bool] = lambda _: False,
    ahead: Callable[[PendingTask], float] = nothing_ahead,
) -> Iterator[Turn]:
    """Yield the tasks in the order in which they are expected to run, then the held ones, oldest first.

    ``now`` is Unix seconds, ``ahead`` is that of a :class:`~celery_dynprio.Context`. In the overflow, tasks for which
    ``yields`` is true come last. Equal arguments give the same order.
    """
    position = 0
    front = set()
    for level, tasks in enumerate(snapshot.levels):
        for task in tasks:
            position += 1
            front.add(task.id)
            yield Turn(queue, task, level, position, score(task), max(now - task.published, 0.0), ahead=ahead(task))
    parked = [
        (yields(task), -score(task), task.published, task.id, task)
        for task in snapshot.overflow.values()
        if task.id not in front
    ]
    for _, negative, published, _, task in sorted(parked, key=lambda each: each[:4]):
        position += 1
        yield Turn(queue, task, OVERFLOW, position, -negative, max(now - published, 0.0), ahead=ahead(task))
    for task in sorted(held, key=lambda each: (each.published, each.id)):
        yield Turn(queue, task, HELD, None, score(task), max(now - task.published, 0.0), ahead=ahead(task))


def starts(names: Iterable[str], runtimes: Mapping[str, float], slots: int, now: float) -> Iterator[float | None]:
    """Yield the expected start of each of these tasks (their names, in order), if nothing new is published.

    Each of ``slots`` runs one task for its learned mean runtime (seconds, by name; the mean of all for an unknown
    name), then takes the next one: list scheduling (Graham 1966), as in Slurm's ``squeue --start``. Tasks that workers
    run now are not counted, so the true start is later by what is left of them. Yields None if no runtime was learned
    yet, or if there is no slot.
    """
    if not slots or not runtimes:
        for _ in names:
            yield None
        return
    usual = sum(runtimes.values()) / len(runtimes)
    free = [now] * slots
    for name in names:
        start = free[0]
        yield start
        heapq.heapreplace(free, start + runtimes.get(name, usual))


@dataclass(frozen=True, slots=True)
class Shift:
    """How the turn of one task changes under another policy."""

    task: PendingTask
    #: Positions among the tasks that a policy orders, 1 the first, and scores.
    before: int
    after: int
    score_before: float
    score_after: float


def shifts(
    tasks: Sequence[PendingTask], now_score: Callable[[PendingTask], float], then_score: Callable[[PendingTask], float]
) -> list[Shift]:
    """Return how the order of these tasks by score differs between two policies, the largest gain first.

    Equal scores are in order of publishing. Pinned tasks are left out, since no policy moves them.
    """
    free = [task for task in tasks if task.pinned is None]
    before, after = _ranks(free, now_score), _ranks(free, then_score)
    found = [Shift(task, before[task.id][0], after[task.id][0], before[task.id][1], after[task.id][1]) for task in free]
    return sorted(found, key=lambda each: (each.after - each.before, each.after, each.task.id))


def _ranks(tasks: Sequence[PendingTask], score: Callable[[PendingTask], float]) -> Mapping[str, tuple[int, float]]:
    scored = sorted((-score(task), task.published, task.id) for task in tasks)
    return {task_id: (rank, -negative) for rank, (negative, _, task_id) in enumerate(scored, 1)}
