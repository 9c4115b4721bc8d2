"""How near a task's deadline is."""

from __future__ import annotations

from dataclasses import dataclass

from celery_dynprio.durations import Duration
from celery_dynprio.models import Context, PendingTask
from celery_dynprio.policies.base import Factor, Scorer, positive_seconds


@dataclass(frozen=True, init=False)
class Deadline(Factor):
    """Grows from 0 to 1 while the slack falls from ``horizon`` seconds to none; 0 for a task without a deadline.

    Slack is the time to the deadline minus the learned runtime of the task's name (0 if unknown). This is least slack
    first, the variant of earliest deadline first (Liu and Layland 1973) that takes runtimes into account.
    """

    horizon: float

    def __init__(self, horizon: Duration = 60.0) -> None:
        object.__setattr__(self, "horizon", positive_seconds("Deadline", "horizon", horizon))

    def bind(self, context: Context) -> Scorer:
        """Return the scorer."""
        now, horizon, runtime = context.now, self.horizon, context.runtimes.get

        def score(task: PendingTask) -> float:
            due = task.deadline
            if due is None:
                return 0.0
            value = 1.0 - (due - now - runtime(task.name, 0.0)) / horizon
            if value >= 1.0:
                return 1.0
            return max(0.0, value)

        return score
