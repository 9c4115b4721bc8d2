"""In which order pending tasks are expected to run, and when. Pure.

Workers take the front by level, and within one as they came; behind it the overflow comes back best first, and after
that what yields to an objective. Held tasks have no turn.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from celery_dynprio.models import HELD, OVERFLOW, PendingTask, Place, Snapshot


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
    #: Unix seconds at which it is expected to start; None if that cannot be told: it is held, it yields to an
    #: objective, no worker is up, or no runtime was learned yet.
    expected: float | None = None


def order(
    queue: str,
    snapshot: Snapshot,
    held: Iterable[PendingTask],
    score: Callable[[PendingTask], float],
    now: float,
    *,
    yields: Callable[[PendingTask], bool] = lambda _: False,
) -> Iterator[Turn]:
    """Yield the tasks in the order in which they are expected to run, the held ones last, the longest held first.

    ``now`` is Unix seconds. Of the overflow, what ``yields`` is true of comes last. Equal arguments give the same
    order.
    """
    position = 0
    front = set()
    for level, tasks in enumerate(snapshot.levels):
        for task in tasks:
            position += 1
            front.add(task.id)
            yield Turn(queue, task, level, position, score(task), max(now - task.published, 0.0))
    parked = [
        (yields(task), -score(task), task.published, task.id, task)
        for task in snapshot.overflow.values()
        if task.id not in front
    ]
    for _, negative, published, _, task in sorted(parked, key=lambda each: each[:4]):
        position += 1
        yield Turn(queue, task, OVERFLOW, position, -negative, max(now - published, 0.0))
    for task in sorted(held, key=lambda each: (each.published, each.id)):
        yield Turn(queue, task, HELD, None, score(task), max(now - task.published, 0.0))


def starts(names: Iterable[str], runtimes: Mapping[str, float], slots: int, now: float) -> Iterator[float | None]:
    """Yield when each of these tasks (their names, in order) is expected to start, if nothing new comes.

    Each of ``slots`` runs one task at a time, for its learned mean runtime (seconds, by name; for a name that was never
    seen the mean of the others), and takes the next: list scheduling (Graham 1966), as ``squeue --start`` does for
    Slurm. What the workers have now is not counted, so the true start is later by what is left of that. None as long as
    nothing was learned, or without a slot.
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
    """Tell how the order of these tasks by score differs between two policies, those that gain most first.

    Equal scores are in order of publishing; pinned tasks are left out, as no policy moves them.
    """
    free = [task for task in tasks if task.pinned is None]
    before, after = _ranks(free, now_score), _ranks(free, then_score)
    found = [Shift(task, before[task.id][0], after[task.id][0], before[task.id][1], after[task.id][1]) for task in free]
    return sorted(found, key=lambda each: (each.after - each.before, each.after, each.task.id))


def _ranks(tasks: Sequence[PendingTask], score: Callable[[PendingTask], float]) -> Mapping[str, tuple[int, float]]:
    scored = sorted((-score(task), task.published, task.id) for task in tasks)
    return {task_id: (rank, -negative) for rank, (negative, _, task_id) in enumerate(scored, 1)}
