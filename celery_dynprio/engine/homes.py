"""The level in which each task belongs: that of its score's band, or the one to which it is pinned. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from typing import TypeAlias

from celery_dynprio.engine.scored import Scored, age, published
from celery_dynprio.levels import Bands
from celery_dynprio.models import OVERFLOW, Move, Place, Snapshot

#: Moves that belong together: of one task, or of tasks with equal scores, oldest first.
Unit: TypeAlias = list[Move]


@dataclass(frozen=True, slots=True)
class Homes:
    """The homes of the tasks of one queue in one tick.

    ``levels`` has, for each level, the usable one where its tasks are put. ``hysteresis`` is that of the planner.
    """

    bands: Bands
    levels: Sequence[Place]
    hysteresis: float

    def of(self, score: float) -> Place:
        """Return the home of a task with this score that is in no level yet."""
        return self.levels[self.bands.level(score)]

    def pinned(self, snapshot: Snapshot, entering: Iterable[Scored]) -> Iterable[Unit]:
        """Return the moves of pinned tasks to their levels; ``entering`` is what comes back from the overflow."""
        units: dict[Place, Unit] = {}
        strayed = [
            Scored(task, level, self.bands.middle(task.pinned))
            for level, tasks in enumerate(snapshot.levels)
            for task in tasks
            if task.pinned is not None and self.levels[task.pinned] != level
        ]
        for each in sorted([*strayed, *entering], key=age):
            if each.task.pinned is not None:
                reason = "refill" if each.place == OVERFLOW else "pinned"
                target = self.levels[each.task.pinned]
                units.setdefault(target, []).append(each.move(target, reason))
        return units.values()

    def settled(self, tasks: Iterable[Scored], matters: Callable[[Scored, Place], bool]) -> Iterator[Unit]:
        """Yield the moves of all others to the level of their score; tasks with equal scores go to the same.

        Left out are units without any move, from its task and its target, that ``matters``.
        """
        firsts: dict[float, Scored] = {}
        equals: dict[float, list[Scored]] = {}
        for each in tasks:
            first = firsts.setdefault(each.score, each)
            if first is not each:
                equals.setdefault(each.score, [first]).append(each)
        settle = self.bands.settler(self.hysteresis)
        for score, first in firsts.items():
            group = equals.get(score)
            if group is not None:
                target = self._level(score, group)
            elif first.place == OVERFLOW:
                target = self.of(score)
            else:
                target = self.levels[settle(score, first.place)]
            if group is None:  # nearly all of them, and nearly all of these stay: no need to look further
                if first.place != target and matters(first, target):
                    yield [_settle(first, target)]
            elif any(each.place != target and matters(each, target) for each in group):
                group.sort(key=published)
                yield [_settle(each, target) for each in group if each.place != target]

    def _level(self, score: float, group: Sequence[Scored]) -> Place:
        """Return the level for tasks of equal score: one at which, after the moves, they stand oldest first."""
        inside = [each for each in group if each.place != OVERFLOW]
        if not inside:
            return self.of(score)
        oldest = min(inside, key=published)
        wanted = self.levels[self.bands.settle(score, oldest.place, self.hysteresis)]
        places = {each.place for each in inside}
        if len(places) == 1:
            return wanted
        # Where the oldest are, the others may join them; of tasks published at one moment any may count as the older.
        for home in {each.place for each in inside if published(each) == published(oldest)}:
            if _may_join(inside, home):
                places.discard(home)
        return min(
            (level for level in sorted({*self.levels}) if level not in places),
            key=lambda level: (abs(level - wanted), level != oldest.place, level),
            default=wanted,
        )


def _settle(each: Scored, target: Place) -> Move:
    return each.move(target, "refill" if each.place == OVERFLOW else "score")


def _may_join(group: Iterable[Scored], home: Place) -> bool:
    """Whether those of a group that are elsewhere are all younger than those at ``home``, or as old."""
    ordered = sorted(group, key=lambda each: (each.task.published, each.place != home))
    return all(each.place != home for each in dropwhile(lambda each: each.place == home, ordered))
