"""What runs next, and which moves change that. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate

from celery_dynprio.engine.scored import Scored
from celery_dynprio.models import Place, Snapshot, is_level


@dataclass(frozen=True, slots=True)
class Near:
    """The next ``count`` tasks to run: a move that does not change their order can wait, and may not be wanted then."""

    count: float
    #: How many messages are before each level, and the ids of the next tasks.
    _starts: Sequence[int]
    _first: Collection[str]

    @classmethod
    def of(cls, snapshot: Snapshot, count: int | None) -> Near:
        """Return the next tasks of the front; None: all."""
        starts = list(accumulate(snapshot.depths, initial=0))
        if count is None:
            return cls(math.inf, starts, ())
        levels = zip(starts, snapshot.levels, strict=False)
        return cls(count, starts, {task.id for start, tasks in levels for task in tasks[: max(count - start, 0)]})

    def reaches(self, level: Place) -> bool:
        """Tell whether what is put into this level now may run among the next."""
        return self._starts[level] < self.count

    def changes(self, each: Scored, target: Place) -> bool:
        """Tell whether the order of the next tasks is another one after this move."""
        if not is_level(each.place) or self.count == math.inf:
            return True
        return self.reaches(target) if target < each.place else each.task.id in self._first
