"""How many tasks wait for this one to finish."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from celery_dynprio.models import Context, PendingTask
from celery_dynprio.policies.base import BulkScorer, Factor, Scorer, require_positive


@dataclass(frozen=True)
class Dependents(Factor):
    """Grows with the number of tasks that wait for this one in its chain or chord, and is 1 from ``saturation`` on.

    In a chain that is the length of the path that is left; to go by the longest path first is Hu's rule (1961).
    """

    asks_ahead = False

    saturation: float = 10.0

    def __post_init__(self) -> None:
        require_positive("Dependents", "saturation", self.saturation)

    def bind(self, context: Context) -> Scorer:  # noqa: ARG002 - depends on the task alone
        """Return the scorer."""
        saturation = self.saturation

        def score(task: PendingTask) -> float:
            value = task.dependents / saturation
            return min(1.0, value)

        def score_all(tasks: Sequence[PendingTask]) -> Sequence[float]:
            return [score(task) if task.dependents else 0.0 for task in tasks]

        return BulkScorer(score, score_all)
