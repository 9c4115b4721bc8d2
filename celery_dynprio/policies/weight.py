"""Business importance, as set by the producer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from celery_dynprio.models import Context, PendingTask
from celery_dynprio.policies.base import BulkScorer, Factor, Scorer


@dataclass(frozen=True)
class Weight(Factor):
    """The task's weight (0 to 10) divided by 10: importance relative to the highest, as Slurm's quality of service."""

    asks_ahead = False

    def bind(self, context: Context) -> Scorer:  # noqa: ARG002 - depends on the task alone
        """Return the scorer."""

        def score(task: PendingTask) -> float:
            return task.weight / 10.0

        def score_all(tasks: Sequence[PendingTask]) -> Sequence[float]:
            return [task.weight / 10.0 for task in tasks]

        return BulkScorer(score, score_all)
