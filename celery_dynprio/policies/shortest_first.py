"""How short a task is expected to be, by what was learned of its name and key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from celery_dynprio.durations import Duration
from celery_dynprio.models import Context, PendingTask
from celery_dynprio.policies.base import BulkScorer, Factor, Scorer, positive_seconds
from celery_dynprio.runtimes import Runtimes

#: The value of every task while no runtime is known.
UNKNOWN: Final = 0.5


@dataclass(frozen=True, init=False)
class ShortestFirst(Factor):
    """``1 / (1 + runtime / scale)``: 1 for no time at all, 0.5 for ``scale`` seconds of expected runtime.

    Without a scale (None) it is the mean of all names as learned, so that 0.5 is what is usual.

    Shortest job first gives the shortest mean wait (Smith 1956), at the cost of long tasks, so combine it with an Age
    factor. The runtime is the mean that was learned for the task's name and key, as far as there were such runs, for
    its name, or for all names.
    """

    asks_ahead = False

    scale: float | None

    def __init__(self, scale: Duration | None = 60.0) -> None:
        checked = None if scale is None else positive_seconds("ShortestFirst", "scale", scale)
        object.__setattr__(self, "scale", checked)

    def bind(self, context: Context) -> Scorer:
        """Return the scorer."""
        runtimes, scale = context.runtimes, self.scale or _usual(context.runtimes)
        mean = runtimes.mean

        def score(task: PendingTask) -> float:
            seconds = mean(task)
            return UNKNOWN if seconds is None else 1.0 / (1.0 + seconds / scale)

        def score_all(tasks: Sequence[PendingTask]) -> Sequence[float]:
            means = runtimes.means(tasks)
            return [UNKNOWN if seconds is None else 1.0 / (1.0 + seconds / scale) for seconds in means]

        return BulkScorer(score, score_all)


def _usual(runtimes: Runtimes) -> float:
    """The mean runtime of all names in seconds; 1 if there is none, or if they take no time at all."""
    return (fmean(runtimes.values()) if runtimes else 0.0) or 1.0
