"""How long a task has waited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from celery_dynprio.durations import Duration
from celery_dynprio.models import Context, PendingTask
from celery_dynprio.policies.base import BulkScorer, Factor, Scorer, positive_seconds

#: A task that has waited this many saturations counts as starving.
STARVING: Final = 4.0


@dataclass(frozen=True, init=False)
class Age(Factor):
    """Grows in proportion to the time waited and reaches 1 after ``saturation`` seconds (Slurm's PriorityMaxAge).

    Under a policy with this factor no task waits forever: see :attr:`patience`.
    """

    asks_ahead = False

    saturation: float

    def __init__(self, saturation: Duration = 300.0) -> None:
        object.__setattr__(self, "saturation", positive_seconds("Age", "saturation", saturation))

    @property
    def patience(self) -> float:
        """Four times the saturation, in seconds; a task that has waited longer counts as starving."""
        return STARVING * self.saturation

    def bind(self, context: Context) -> Scorer:
        """Return the scorer; a task from the future (clock skew) has waited 0 seconds."""
        now, saturation = context.now, self.saturation

        def score(task: PendingTask) -> float:
            value = (now - task.published) / saturation
            if value >= 1.0:
                return 1.0
            return max(0.0, value)

        def score_all(tasks: Sequence[PendingTask]) -> Sequence[float]:
            return [
                value if 0.0 < (value := (now - task.published) / saturation) < 1.0 else 0.0 if value <= 0.0 else 1.0
                for task in tasks
            ]

        return BulkScorer(score, score_all)
