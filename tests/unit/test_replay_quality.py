"""How near the planner comes to exact score order, on a slice of a real arrival process.

The log is NASA Ames's iPSC/860 log of 1993 from the Parallel Workloads Archive (collected by Bill Nitzberg, converted
by Dror Feitelson).
"""

from __future__ import annotations

import gzip
import heapq
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pytest

from celery_dynprio.brokers.memory import MemoryBacklog
from celery_dynprio.engine.planner import Planner
from celery_dynprio.levels import Bands
from celery_dynprio.models import Context, PendingTask
from celery_dynprio.policies import Age, Weight

TRACE = Path(__file__).parents[3] / "shared" / "traces" / "nasa-ipsc-1993-first-half.swf.gz"
WORKERS = 8
LEVELS = 10
POLICY = 3 * Weight() + 1 * Age(saturation=60)

pytestmark = pytest.mark.skipif(
    not TRACE.exists(), reason=f"the workload trace {TRACE.name} is not beside the checkout"
)


class Job(NamedTuple):
    task: PendingTask
    runtime: float


def jobs(load: float, count: int = 1500) -> list[Job]:
    """A slice of the log: mean runtime 1 s, offered at ``load`` of the workers; the weight is the user's."""
    with gzip.open(TRACE, "rt") as lines:
        rows = [line.split() for line in islice((line for line in lines if line[0] != ";"), 3000, 3000 + count)]
    submits, runtimes = [float(row[1]) for row in rows], [max(float(row[3]), 1.0) for row in rows]
    scale = sum(runtimes) / count
    stretch = count / WORKERS / load / (submits[-1] - submits[0])
    return [
        Job(PendingTask(str(at), "job", (submit - submits[0]) * stretch, int(row[11]) * 7 % 11), runtime / scale)
        for at, (submit, runtime, row) in enumerate(zip(submits, runtimes, rows, strict=True))
    ]


def exact(task: PendingTask, now: float) -> float:
    return -POLICY.score(task, Context(now))


def oldest(task: PendingTask, now: float) -> float:
    return task.published


class Ordered:
    """Each start takes the first by ``key`` of all that waits."""

    moves = 0

    def __init__(self, key: Callable[[PendingTask, float], float]) -> None:
        self._key = key
        self._waiting: list[PendingTask] = []

    def publish(self, task: PendingTask) -> None:
        self._waiting.append(task)

    def consume(self, now: float) -> PendingTask | None:
        if not self._waiting:
            return None
        task = min(self._waiting, key=lambda task: self._key(task, now))
        self._waiting.remove(task)
        return task

    def tick(self, now: float) -> None:
        pass


class Planned:
    """Each start takes the next of the levels; each second the planner moves."""

    def __init__(self) -> None:
        self.moves = 0
        self._backlog = MemoryBacklog("celery", LEVELS)
        self._planner = Planner(LEVELS, window=10_000, hysteresis=0.25)
        self._bands: Bands | None = None

    def publish(self, task: PendingTask) -> None:
        score = POLICY.score(task, Context(task.published))
        self._backlog.publish(task, Bands.equal(LEVELS).level(score))

    def consume(self, now: float) -> PendingTask | None:  # noqa: ARG002 - the levels decide
        return self._backlog.consume()

    def tick(self, now: float) -> None:
        plan = self._planner.plan(
            self._backlog.read(now),
            POLICY.bind(Context(now)),
            now,
            bands=self._bands,
            patience=POLICY.patience,
            cost=lambda _: 80e-6,
            budget=0.2,
        )
        self._bands = plan.bands
        self._backlog.apply(plan.moves)
        self.moves += len(plan.moves)


def starts(work: Sequence[Job], queue: Ordered | Planned) -> Iterator[tuple[PendingTask, float]]:
    """Run the jobs; yield each task with the time that it waited."""
    runtimes = {job.task.id: job.runtime for job in work}
    events: list[tuple[float, int, PendingTask | None]] = [
        (job.task.published, at, job.task) for at, job in enumerate(work)
    ]
    idle, left, tick = WORKERS, len(work), 1
    while left:
        if not events or events[0][0] >= tick:
            queue.tick(tick)
            tick += 1
            continue
        now, _, task = heapq.heappop(events)
        if task is None:
            idle += 1
        else:
            queue.publish(task)
        while idle and (started := queue.consume(now)):
            idle, left = idle - 1, left - 1
            heapq.heappush(events, (now + runtimes[started.id], len(work) + left, None))
            yield started, now - started.published


def weighted_mean_wait(work: Sequence[Job], queue: Ordered | Planned) -> float:
    waits = list(starts(work, queue))
    return sum(task.weight * wait for task, wait in waits) / sum(task.weight for task, _ in waits)


@pytest.mark.parametrize(("load", "moves"), [(0.95, 3), (1.1, 5)])
def test_most_of_the_gain_of_exact_order_with_few_moves(load: float, moves: float) -> None:
    work, planned = jobs(load), Planned()
    first_come = weighted_mean_wait(work, Ordered(oldest))
    best = weighted_mean_wait(work, Ordered(exact))
    gain = (first_come - weighted_mean_wait(work, planned)) / (first_come - best)
    assert best < 0.9 * first_come  # there is something to gain
    assert gain >= 0.85
    assert planned.moves / len(work) <= moves
