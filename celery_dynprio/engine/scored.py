"""A pending task as the planner sees it, and the orders in which it sorts them."""

from __future__ import annotations

from operator import attrgetter
from typing import NamedTuple

from celery_dynprio.models import Move, PendingTask, Place


class Scored(NamedTuple):
    """A pending task with its place and its score."""

    task: PendingTask
    place: Place
    score: float

    def move(self, target: Place, reason: str) -> Move:
        """Return the move that brings it to ``target``."""
        return Move(self.task, self.place, target, self.score, reason)


#: By the time of publishing.
published = attrgetter("task.published")


def age(each: Scored) -> tuple[float, str]:
    """Sort the oldest first."""
    return each.task.published, each.task.id


def rank(each: Scored) -> tuple[float, float, str]:
    """Sort the best first; of equals the oldest."""
    return -each.score, each.task.published, each.task.id
