"""How many tasks wait for a task to finish."""

from __future__ import annotations

from dataclasses import dataclass

from celery_dynprio.models import Context, PendingTask
from celery_dynprio.policies.base import Factor, Scorer, require_positive


@dataclass(frozen=True)
class Dependents(Factor):
    """The number of tasks that wait for this one in its chain or chord; 1 from ``saturation`` of them on."""

    saturation: float = 10.0

    def __post_init__(self) -> None:
        require_positive("Dependents", "saturation", self.saturation)

    def bind(self, context: Context) -> Scorer:  # noqa: ARG002 - the task is all it needs
        """Return the scorer."""
        saturation = self.saturation

        def score(task: PendingTask) -> float:
            value = task.dependents / saturation
            return min(1.0, value)

        return score
