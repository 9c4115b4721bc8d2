"""The best tasks of a long overflow, as far as they were found. Pure, apart from what it remembers.

To score and to sort a million tasks takes seconds. So each tick looks at a slice of them only: at those that were
parked last, if they have no score yet, and at the others in rotation. It keeps the best of these and of those that were
kept before; the rest have to wait until it is their turn again.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Reversible, Sequence
from itertools import chain, islice
from operator import attrgetter
from typing import Final, cast

from celery_dynprio.chunks import chunks
from celery_dynprio.engine.scores import Scores
from celery_dynprio.models import PendingTask
from celery_dynprio.policies.base import Scorer

#: A slice is so many times what is to be chosen.
SLICE: Final = 3

#: Behind so many tasks in a row that have a score, none is looked for that has none: its turn comes in the rotation.
OLD: Final = 1000

#: So many of the oldest that were seen are always chosen, because they may be starving.
OLDEST: Final = 100

_published: Final = attrgetter("published")


class Candidates:
    """Follows one overflow from tick to tick."""

    def __init__(self, scores: Scores) -> None:
        self._scores = scores
        self._chosen: Sequence[str] = ()
        self._rota: Iterator[str] = iter(())

    def choose(self, overflow: Mapping[str, PendingTask], score: Scorer, limit: int) -> Mapping[str, PendingTask]:
        """Choose ``limit`` tasks with the best scores (of equals the oldest) from an overflow by id, and some oldest.

        An overflow that is not longer is returned as it is.
        """
        if len(overflow) <= limit:
            return overflow
        turn = _parked(overflow, self._turn(overflow, SLICE * limit))
        scores = dict(zip(self._chosen, self._scores.last_of(self._chosen), strict=True))
        scores.update(zip(turn, self._scores.renew(list(turn.values()), score), strict=True))
        pool = {**_parked(overflow, self._chosen), **turn}
        if len(scores) > len(pool):  # some of the chosen are parked no more
            scores = {task_id: scores[task_id] for task_id in pool}
        tasks, known = pool.values(), scores.values()
        least = sorted(known, reverse=True)[: limit + 1][-1]
        above = [task for task, value in zip(tasks, known, strict=True) if value > least][:limit]
        equal = (task for task, value in zip(tasks, known, strict=True) if value == least)
        rest = heapq.nsmallest(limit - len(above), equal, key=_published)
        oldest = heapq.nsmallest(min(OLDEST, limit), tasks, key=_published)
        chosen = {task.id: task for task in chain(above, rest, oldest)}
        self._chosen = list(chosen)
        return chosen

    def _turn(self, overflow: Mapping[str, PendingTask], size: int) -> Sequence[str]:
        turn = list(islice(self._new(overflow), size))
        wanted = size - len(turn)
        again = list(islice(self._rota, wanted))
        if len(again) < wanted:
            self._rota = iter(list(overflow))
        if not turn and overflow.keys().isdisjoint(again):  # all of them left meanwhile, or none had its turn yet
            self._rota = iter(list(overflow))
            again = list(islice(self._rota, wanted))
        return turn + again

    def _new(self, overflow: Mapping[str, PendingTask]) -> Iterator[str]:
        """Yield those without a score, those that were parked last first, up to many in a row that have one."""
        ids = cast("Reversible[str]", overflow)  # a dict, or a view of one: in the order of parking
        for part in chunks(reversed(ids), OLD):
            new = self._scores.unknown(part)
            yield from new
            if not new:
                return


def _parked(overflow: Mapping[str, PendingTask], ids: Sequence[str]) -> dict[str, PendingTask]:
    """Return those of these tasks that are parked."""
    found = zip(ids, map(overflow.get, ids), strict=True)
    return {task_id: task for task_id, task in found if task is not None}
