"""The best tasks of a long overflow, as far as they were found. Pure, apart from what it remembers.

To score and to sort a million tasks takes seconds. So each tick looks at a slice of them only: at those that were
parked last, if they have no score yet, and at the others in rotation. It keeps the best of these and of those that were
kept before; the rest have to wait until it is their turn again.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from operator import attrgetter
from typing import Final

from celery_dynprio.engine.scores import Scores
from celery_dynprio.models import PendingTask
from celery_dynprio.policies.base import Scorer

#: A slice is so many times what is to be chosen.
SLICE: Final = 5

#: So many of the oldest that were seen are always chosen, because they may be starving.
OLDEST: Final = 100

_published: Final = attrgetter("published")


class Candidates:
    """Follows one overflow from tick to tick."""

    def __init__(self, scores: Scores) -> None:
        self._scores = scores
        self._chosen: Iterable[str] = ()
        self._rota: Iterator[str] = iter(())

    def choose(self, overflow: Mapping[str, PendingTask], score: Scorer, limit: int) -> Mapping[str, PendingTask]:
        """Choose ``limit`` tasks with the best scores (of equals the oldest) from an overflow by id, and some oldest.

        An overflow that is not longer is returned as it is.
        """
        if len(overflow) <= limit:
            return overflow
        turn = self._turn(overflow, SLICE * limit)
        self._scores.renew([overflow[task_id] for task_id in turn], score)
        pool = {task_id: overflow[task_id] for task_id in chain(self._chosen, turn) if task_id in overflow}
        tasks, known = pool.values(), self._scores.last_of(pool)
        least = sorted(known, reverse=True)[: limit + 1][-1]
        above = [task for task, value in zip(tasks, known, strict=True) if value > least][:limit]
        equal = (task for task, value in zip(tasks, known, strict=True) if value == least)
        rest = heapq.nsmallest(limit - len(above), equal, key=_published)
        oldest = heapq.nsmallest(min(OLDEST, limit), tasks, key=_published)
        chosen = {task.id: task for task in chain(above, rest, oldest)}
        self._chosen = chosen.keys()
        return chosen

    def _turn(self, overflow: Mapping[str, PendingTask], size: int) -> list[str]:
        latest = islice(overflow, max(len(overflow) - size, 0), None)
        turn = [task_id for task_id in latest if not self._scores.knows(task_id)]
        wanted = size - len(turn)
        again = list(islice(self._rota, wanted))
        if len(again) < wanted:
            self._rota = iter(list(overflow))
        return turn + [task_id for task_id in again if task_id in overflow]
