"""Pending tasks as the planner sees them, and the orders in which it sorts them."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from operator import attrgetter
from typing import NamedTuple

from celery_dynprio.models import Level, Move, PendingTask, Place, Snapshot
from celery_dynprio.policies.base import Scorer, all_of


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


def best_of(tasks: Sequence[Scored], count: int) -> list[Scored]:
    """Return so many of these, the best first."""
    scores = sorted([each.score for each in tasks], reverse=True)[: max(count, 0)]
    return heapq.nsmallest(count, [each for each in tasks if each.score >= scores[-1]], key=rank) if scores else []


@dataclass(frozen=True, slots=True)
class Front:
    """The tasks in the levels that the policy orders, and their scores, level by level, the next to run first.

    Nearly all of them stay where they are. So they are kept in columns, and a :class:`Scored` is made of those only
    that are asked for.
    """

    tasks: Sequence[Sequence[PendingTask]]
    scores: Sequence[Sequence[float]]

    @classmethod
    def of(cls, snapshot: Snapshot, score: Scorer) -> Front:
        """Score all tasks of the levels but the pinned ones."""
        levels = [Level.of(tasks).free for tasks in snapshot.levels]
        return cls(levels, [all_of(score, tasks) for tasks in levels])

    @property
    def all_scores(self) -> list[float]:
        """The scores in one list."""
        return list(chain.from_iterable(self.scores))

    def having(self, accepts: Callable[[PendingTask], bool]) -> Iterator[Scored]:
        """Yield those whose task is accepted."""
        for place, (tasks, scores) in enumerate(zip(self.tasks, self.scores, strict=True)):
            for task, score in zip(tasks, scores, strict=True):
                if accepts(task):
                    yield Scored(task, place, score)

    def scoring(self, wanted: Callable[[float], bool]) -> Iterator[Scored]:
        """Yield those with a score that is wanted."""
        for place, (tasks, scores) in enumerate(zip(self.tasks, self.scores, strict=True)):
            for index in [index for index, score in enumerate(scores) if wanted(score)]:
                yield Scored(tasks[index], place, scores[index])

    def having_score(self, wanted: Collection[float]) -> Iterator[Scored]:
        """Yield those with one of these scores."""
        wanted = frozenset(wanted)
        for place, (tasks, scores) in enumerate(zip(self.tasks, self.scores, strict=True)):
            if not wanted.isdisjoint(scores):
                for index in [index for index, score in enumerate(scores) if score in wanted]:
                    yield Scored(tasks[index], place, scores[index])

    def published_before(self, since: float) -> Iterator[Scored]:
        """Yield those published before a moment (Unix seconds)."""
        for place, (tasks, scores) in enumerate(zip(self.tasks, self.scores, strict=True)):
            if isinstance(tasks, Level) and tasks.oldest >= since:
                continue
            for index in [index for index, task in enumerate(tasks) if task.published < since]:
                yield Scored(tasks[index], place, scores[index])

    def worst(self, count: int) -> list[Scored]:
        """Return so many, the worst first."""
        least = heapq.nsmallest(count, self.all_scores)
        return heapq.nlargest(count, self.scoring(lambda score: score <= least[-1]), key=rank) if least else []

    def best(self, count: int) -> list[Scored]:
        """Return so many, the best first; of equals the oldest."""
        most = heapq.nlargest(count, self.all_scores)
        return heapq.nsmallest(count, self.scoring(most[-1].__le__), key=rank) if most else []

    def first(self, count: int) -> list[Scored]:
        """Return so many, the next to run first."""
        return list(islice(self.having(lambda _: True), count))

    def without(self, ids: Collection[str]) -> Front:
        """Return all but those with these ids."""
        if not ids:
            return self
        kept = [[index for index, task in enumerate(tasks) if task.id not in ids] for tasks in self.tasks]
        return Front(
            [[tasks[index] for index in indices] for tasks, indices in zip(self.tasks, kept, strict=True)],
            [[scores[index] for index in indices] for scores, indices in zip(self.scores, kept, strict=True)],
        )
