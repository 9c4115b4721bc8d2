"""Run times drawn at random from what was learned, and the ranges that come of many draws. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import quantiles
from typing import Final, NamedTuple

from celery_dynprio.engine.scene import Taken
from celery_dynprio.models import PendingTask
from celery_dynprio.runtimes import Estimate, Runtimes

#: How much of what may happen a range covers; half of the rest is below it, half above.
COVERAGE: Final = 0.8

#: The fewest draws that a range is made of.
FEWEST: Final = 19

#: How often an interval of probabilities is halved to find how far a run has come.
_HALVINGS: Final = 20


class Range(NamedTuple):
    """Where something is expected: with a probability of 80 % between ``low`` and ``high``."""

    low: float
    median: float
    high: float


def range_of(values: Sequence[float]) -> Range:
    """The range that these draws, at least :data:`FEWEST`, show: their tenth, fiftieth and ninetieth percentile.

    The position of a quantile among n values is that of the n + 1 gaps between them, so that a further draw is within
    with the probability that is promised, however few there are (Hyndman and Fan 1996, definition 6).
    """
    tenths = quantiles(values, n=10, method="exclusive")
    return Range(tenths[0], tenths[4], tenths[8])


class Draws:
    """Run times of tasks in one possible future.

    Those of one task are the same for all who ask with one ``seed``: so two policies are compared in the same futures.
    """

    def __init__(self, runtimes: Runtimes, seed: int) -> None:
        self._runtimes = runtimes
        self._seed = seed

    def run(self, task: PendingTask) -> float:
        """How long this task runs; 0 while nothing was learned at all."""
        estimate = self._runtimes.expected(task)
        return 0.0 if estimate is None else quantile(estimate, self._chance(task))

    def rest(self, taken: Taken, now: float) -> float:
        """How long a task that a worker has will run from ``now`` (Unix seconds) on."""
        if taken.since is None:
            return self.run(taken.task)
        estimate = self._runtimes.expected(taken.task)
        return 0.0 if estimate is None else rest(estimate, max(now - taken.since, 0.0), self._chance(taken.task))

    def _chance(self, task: PendingTask) -> float:
        return random.Random(f"{self._seed}:{task.ref}").random()  # noqa: S311 - a simulation


def quantile(estimate: Estimate, chance: float) -> float:
    """The run time that is not exceeded with this probability, which may be 0."""
    return estimate.quantile(min(max(chance, 1e-9), 1 - 1e-9))


def rest(estimate: Estimate, elapsed: float, chance: float) -> float:
    """What is left of a run after ``elapsed`` seconds, at this quantile of the runs that last longer than that.

    Of a run that is longer than nearly all before, nobody knows: it is taken to be at a point of its way that is as
    likely as any other (Gott 1993), but not to last more than ten times as long.
    """
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if quantile(estimate, middle) <= elapsed else (low, middle)
    if low > 0.999:  # noqa: PLR2004 - one of a thousand
        return elapsed * min(1 / max(1 - chance, 1e-9) - 1, 10.0)
    return max(quantile(estimate, low + chance * (1 - low)) - elapsed, 0.0)
