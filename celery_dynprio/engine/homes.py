"""The level in which each task belongs: that of its score's band, or the one to which it is pinned. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, dropwhile
from typing import Final, TypeAlias

from celery_dynprio.engine.exchange import Exchanges
from celery_dynprio.engine.scored import Front, Scored, age, published
from celery_dynprio.levels import Bands
from celery_dynprio.models import OVERFLOW, Move, Place, Snapshot

#: Moves that belong together: of one task, or of tasks with equal scores, oldest first.
Unit: TypeAlias = list[Move]

#: An exchange among what runs next is worth its moves from so much of the margin on. With 2, a third fewer tasks move,
#: but one of the replays gains less.
GAIN: Final = 0.5


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

    @property
    def margin(self) -> float:
        """How much more than another one's score is worth an exchange of the two."""
        return self.hysteresis * self.bands.width

    def settle(self, each: Scored) -> Place:
        """Return the home of a task that is in a level: its own, unless its score is far outside of that."""
        return self.levels[self.bands.settle(each.score, each.place, self.hysteresis)]

    def exact(self, each: Scored) -> Place:
        """Return the home of a task that takes part in an exchange, which is worth its moves: that of its score."""
        return self.of(each.score)

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

    def settled(self, front: Front, entering: Iterable[Scored], near: int | None) -> Iterator[Unit]:
        """Yield the moves of all others to the level of their score; tasks with equal scores go to the same.

        Left out are units of which none takes part in an exchange among the ``near`` next tasks (None: none is).
        """
        coming = [each for each in entering if each.task.pinned is None]
        exchanges = None if near is None else Exchanges.among(front, near, GAIN * self.margin, self.exact)
        moving = {*self._leaving(front), *_spread(front)} if exchanges is None else exchanges.scores
        scores = moving | {each.score for each in coming}
        if not scores:
            return
        equals: dict[float, list[Scored]] = {}
        for each in chain(front.having_score(scores), coming):
            equals.setdefault(each.score, []).append(each)
        for score, group in equals.items():
            target = self._level(score, group, self.settle if exchanges is None else self.exact)
            going = [each for each in group if each.place != target]
            if exchanges is None or any(exchanges.include(each, target) for each in going):
                going.sort(key=published)
                if going:
                    yield [_settle(each, target) for each in going]

    def _leaving(self, front: Front) -> Iterator[float]:
        """Yield the scores with which tasks leave their level."""
        for place, scores in enumerate(front.scores):
            low, high = self.bands.reach(place, self.hysteresis) if self.levels[place] == place else (math.inf, 0.0)
            for score in [score for score in scores if not low < score < high]:
                if self.levels[self.bands.settle(score, place, self.hysteresis)] != place:
                    yield score

    def _level(self, score: float, group: Sequence[Scored], home: Callable[[Scored], Place]) -> Place:
        """Return the level for tasks of equal score: one at which, after the moves, they stand oldest first."""
        inside = [each for each in group if each.place != OVERFLOW]
        if not inside:
            return self.of(score)
        oldest = min(inside, key=published)
        wanted = home(oldest)
        places = {each.place for each in inside}
        if len(places) == 1:
            return wanted
        # Where the oldest are, the others may join them; of tasks published at one moment any may count as the older.
        for place in {each.place for each in inside if published(each) == published(oldest)}:
            if _may_join(inside, place):
                places.discard(place)
        return min(
            (level for level in sorted({*self.levels}) if level not in places),
            key=lambda level: (abs(level - wanted), level != oldest.place, level),
            default=wanted,
        )


def _spread(front: Front) -> set[float]:
    """Return the scores of tasks that are in several levels."""
    seen: set[float] = set()
    spread: set[float] = set()
    for scores in front.scores:
        spread.update(seen.intersection(scores))
        seen.update(scores)
    return spread


def _settle(each: Scored, target: Place) -> Move:
    return each.move(target, "refill" if each.place == OVERFLOW else "score")


def _may_join(group: Iterable[Scored], home: Place) -> bool:
    """Whether those of a group that are elsewhere are all younger than those at ``home``, or as old."""
    ordered = sorted(group, key=lambda each: (each.task.published, each.place != home))
    return all(each.place != home for each in dropwhile(lambda each: each.place == home, ordered))
