"""Which pending tasks to move now. Pure: (what waits and where, scores, now) -> moves.

The order that the planner works towards: each task at the level of its score's band; within a level, as they came.
A move puts a task at the back of its target, so tasks with equal scores are moved together, oldest first: a younger
one never gets ahead. (One exception: demoting more equal tasks than the budget allows takes several ticks, and until
it is complete the younger ones are ahead.)
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import dropwhile, takewhile
from typing import Final, NamedTuple, TypeAlias

from celery_dynprio.levels import Bands, at_or_before
from celery_dynprio.models import OVERFLOW, Move, PendingTask, Place, Snapshot, is_level

#: One tick exchanges at most so many tasks between a full front and the overflow.
MOST_SWAPS: Final = 100

#: At most every fourth task of level 0 was lifted there because it starved, so that an old backlog does not bury
#: urgent work; at least this many, or half of level 0, keep their place there once lifted.
LIFTED_SHARE: Final = 4
LIFTED_KEPT: Final = 100


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now: the moves, in the order in which to make them."""

    moves: tuple[Move, ...]
    #: To be handed to the next plan of the same queue.
    bands: Bands
    #: Moves that were wanted but over the budget.
    deferred: int


class _Waiting(NamedTuple):
    task: PendingTask
    place: Place
    score: float


#: Moves that belong together: of one task, or of tasks with equal scores, oldest first.
_Unit: TypeAlias = list[Move]


@dataclass(frozen=True, slots=True)
class Planner:
    """Plans the moves of one queue with ``levels`` levels.

    ``window`` is how many messages the front is refilled to; ``hysteresis`` (a fraction of a band's width) is how far
    beyond its band a score must be before its task is moved.
    """

    levels: int
    window: int
    hysteresis: float

    def plan(
        self,
        snapshot: Snapshot,
        score: Callable[[PendingTask], float],
        now: float,
        *,
        bands: Bands | None,
        patience: float | None,
        cost: Callable[[Move], float],
        budget: float,
        yields: Callable[[PendingTask], bool] | None = None,
        usable: Sequence[Place] | None = None,
    ) -> Plan:
        """Choose moves for at most ``budget`` seconds of broker time as told by ``cost``; one, if any is wanted.

        ``score`` must give numbers in [0, 1]. ``bands`` are those of the last plan, None at first. A task that waits
        for more than ``patience`` seconds starves (None: none does). Tasks of the front that ``yields`` is true of are
        parked; the overflow is to be given without them. Tasks are put only into ``usable`` levels (ascending, from 0
        on; None: all): what belongs to another goes to the last usable one before that. Equal arguments give equal
        plans.
        """
        homes = [at_or_before(level, usable or range(self.levels)) for level in range(self.levels)]
        front = [
            _Waiting(task, level, score(task))
            for level, tasks in enumerate(snapshot.levels)
            for task in tasks
            if task.pinned is None
        ]
        bands = self._bands(snapshot, front, score, bands)
        yielding = [waiting for waiting in front if yields(waiting.task)] if yields else []
        if yielding:
            gone = {waiting.task.id for waiting in yielding}
            front = [waiting for waiting in front if waiting.task.id not in gone]
        parked = list(self._parked(snapshot, score, bands))
        since = -math.inf if patience is None else now - patience
        kept, lifted = self._starving(front, parked, since=since, urgent=snapshot.depths[0], bands=bands, homes=homes)
        free = [waiting for waiting in front if waiting.task.id not in kept]
        leaving, entering = self._exchange(snapshot, free, [each for each in parked if each is not lifted], bands)
        if leaving:
            gone = {waiting.task.id for waiting in leaving}
            free = [waiting for waiting in free if waiting.task.id not in gone]
        units = [
            *([[_move(lifted, 0, "starving")]] if lifted else []),
            *([_held_back(waiting)] for waiting in yielding),
            *([_move(waiting, OVERFLOW, "overflow")] for waiting in leaving),
            *self._pinned(snapshot, entering, bands, homes),
            *self._settled([*free, *(waiting for waiting in entering if waiting.task.pinned is None)], bands, homes),
        ]
        moves, deferred = self._afford(units, cost, budget)
        return Plan(tuple(sorted(moves, key=_apply_order)), bands, deferred)

    def _bands(
        self,
        snapshot: Snapshot,
        front: Sequence[_Waiting],
        score: Callable[[PendingTask], float],
        previous: Bands | None,
    ) -> Bands:
        scores = [waiting.score for waiting in front]
        if not scores:
            scores = [score(task) for task in snapshot.overflow.values() if task.pinned is None]
        return Bands.fit(scores, self.levels, previous)

    def _parked(self, snapshot: Snapshot, score: Callable[[PendingTask], float], bands: Bands) -> Iterator[_Waiting]:
        """The overflow; a pinned task counts with the score that its level stands for."""
        if not snapshot.overflow:
            return
        taken = {task.id for tasks in snapshot.levels for task in tasks}
        for task in snapshot.overflow.values():
            if task.id not in taken:
                yield _Waiting(task, OVERFLOW, score(task) if task.pinned is None else bands.middle(task.pinned))

    def _starving(
        self,
        front: Sequence[_Waiting],
        parked: Sequence[_Waiting],
        *,
        since: float,
        urgent: int,
        bands: Bands,
        homes: Sequence[Place],
    ) -> tuple[set[str], _Waiting | None]:
        """Return the ids of tasks that the score does not move now, and the task to be lifted to level 0.

        Starving are those published before ``since``. They are lifted oldest first, so those that were lifted before
        are the oldest of all and need not be remembered. ``urgent`` is how many messages are at level 0.
        """
        oldest = heapq.nsmallest(
            max(LIFTED_KEPT, urgent // 2), (each for each in front if each.task.published < since), key=_age
        )
        kept = list(takewhile(lambda waiting: waiting.place == 0, oldest))
        ids = {waiting.task.id for waiting in kept}
        lifted = sum(homes[bands.level(waiting.score)] != 0 for waiting in kept)
        if lifted * LIFTED_SHARE > urgent:
            return ids, None
        waiting = (each for each in parked if each.task.published < since and each.task.pinned is None)
        chosen = min([*oldest[len(kept) : len(kept) + 1], *waiting], key=_age, default=None)
        return ids | ({chosen.task.id} if chosen else set()), chosen

    def _exchange(
        self, snapshot: Snapshot, front: Sequence[_Waiting], parked: Sequence[_Waiting], bands: Bands
    ) -> tuple[list[_Waiting], list[_Waiting]]:
        """Return who leaves the front and who enters it: refill it to the window, or swap when it is full."""
        room = self.window - sum(snapshot.depths)
        if not parked or room > 0:
            return [], heapq.nsmallest(room, parked, key=_rank)
        margin = self.hysteresis * bands.width
        best = heapq.nsmallest(MOST_SWAPS, parked, key=_rank)
        worst = heapq.nlargest(
            MOST_SWAPS, (waiting for waiting in front if waiting.task.id not in snapshot.overflow), key=_rank
        )
        pairs = list(takewhile(lambda pair: _gains(*pair, margin), zip(worst, best, strict=False)))
        return [out for out, _ in pairs], [into for _, into in pairs]

    def _pinned(
        self, snapshot: Snapshot, entering: Iterable[_Waiting], bands: Bands, homes: Sequence[Place]
    ) -> Iterable[_Unit]:
        """Pinned tasks go to the level they are pinned to."""
        units: dict[Place, _Unit] = {}
        strayed = [
            _Waiting(task, level, bands.middle(task.pinned))
            for level, tasks in enumerate(snapshot.levels)
            for task in tasks
            if task.pinned is not None and homes[task.pinned] != level
        ]
        for waiting in sorted([*strayed, *entering], key=_age):
            if waiting.task.pinned is not None:
                reason = "refill" if waiting.place == OVERFLOW else "pinned"
                target = homes[waiting.task.pinned]
                units.setdefault(target, []).append(_move(waiting, target, reason))
        return units.values()

    def _settled(self, tasks: Iterable[_Waiting], bands: Bands, homes: Sequence[Place]) -> Iterator[_Unit]:
        """All others go to the level of their score, tasks with equal scores to the same."""
        equals: dict[float, list[_Waiting]] = {}
        for waiting in tasks:
            equals.setdefault(waiting.score, []).append(waiting)
        for score, group in equals.items():
            target = self._level(score, group, bands, homes)
            if len(group) == 1 and group[0].place == target:  # nearly all of them: no need to look further
                continue
            if any(waiting.place != target for waiting in group):
                group.sort(key=_published)
                yield [
                    _move(waiting, target, "refill" if waiting.place == OVERFLOW else "score")
                    for waiting in group
                    if waiting.place != target
                ]

    def _level(self, score: float, group: Sequence[_Waiting], bands: Bands, homes: Sequence[Place]) -> Place:
        """Return the level for tasks of equal score: one at which, after the moves, they stand oldest first."""
        if len(group) == 1 and group[0].place != OVERFLOW:
            return homes[bands.settle(score, group[0].place, self.hysteresis)]
        inside = [waiting for waiting in group if waiting.place != OVERFLOW]
        if not inside:
            return homes[bands.level(score)]
        oldest = min(inside, key=_published)
        wanted = homes[bands.settle(score, oldest.place, self.hysteresis)]
        places = {waiting.place for waiting in inside}
        if len(places) == 1:
            return wanted
        # Where the oldest are, the others may join them; of tasks published at one moment any may count as the older.
        for home in {waiting.place for waiting in inside if _published(waiting) == _published(oldest)}:
            if _may_join(inside, home):
                places.discard(home)
        return min(
            (level for level in sorted({*homes}) if level not in places),
            key=lambda level: (abs(level - wanted), level != oldest.place, level),
            default=wanted,
        )

    def _afford(self, units: Iterable[_Unit], cost: Callable[[Move], float], budget: float) -> tuple[list[Move], int]:
        """Take what matters most first until the budget is spent; return what was taken and how many were not."""
        taken: list[Move] = []
        left, deferred = budget, 0
        for unit in sorted(units, key=self._importance):
            prices = [cost(move) for move in unit]
            if len(unit) > 1 and self._demotes(unit) and left < sum(prices) <= budget:
                deferred += len(unit)  # done in part, it would leave the younger ahead
                continue
            for move, price in zip(unit, prices, strict=True):
                if price > left and taken:
                    break
                left -= price
                taken.append(move)
                deferred -= 1
            deferred += len(unit)
        return taken, deferred

    def _importance(self, unit: _Unit) -> tuple[int, int, float, str]:
        """Moves into or out of the most urgent levels first, then the longest, then the oldest task's."""
        first = unit[0]
        if first.reason == "starving":
            return -1, 0, 0.0, ""
        urgent, distance = min(map(self._reach, unit)) if len(unit) > 1 else self._reach(first)
        return urgent, distance, first.task.published, first.task.id

    def _reach(self, move: Move) -> tuple[int, int]:
        source, target = self._depth(move.source), self._depth(move.target)
        return (source, source - target) if source < target else (target, target - source)

    def _demotes(self, unit: _Unit) -> bool:
        return any(self._depth(move.source) < self._depth(move.target) for move in unit)

    def _depth(self, place: Place) -> int:
        """How far a place is from the workers: parked is behind the last level."""
        return place if is_level(place) else self.levels


def _move(waiting: _Waiting, target: Place, reason: str) -> Move:
    return Move(waiting.task, waiting.place, target, waiting.score, reason)


def _held_back(waiting: _Waiting) -> Move:
    """Its message is told since when it waits, if it does not say so: it is not to wait longer for each new leader."""
    changes = {"at": waiting.task.published}
    return Move(waiting.task, waiting.place, OVERFLOW, waiting.score, "objective", changes)


def _gains(out: _Waiting, into: _Waiting, margin: float) -> bool:
    """Tell whether a swap is worth its two moves; among equals, the older one belongs in the front."""
    if into.score > out.score + margin:
        return True
    return into.score >= out.score and into.task.published < out.task.published


def _may_join(group: Iterable[_Waiting], home: Place) -> bool:
    """Whether those of a group that are elsewhere are all younger than those at ``home``, or as old."""
    ordered = sorted(group, key=lambda waiting: (waiting.task.published, waiting.place != home))
    return all(waiting.place != home for waiting in dropwhile(lambda waiting: waiting.place == home, ordered))


def _published(waiting: _Waiting) -> float:
    return waiting.task.published


def _age(waiting: _Waiting) -> tuple[float, str]:
    return waiting.task.published, waiting.task.id


def _rank(waiting: _Waiting) -> tuple[float, float, str]:
    return -waiting.score, waiting.task.published, waiting.task.id


def _apply_order(move: Move) -> tuple[Place, float]:
    return move.target, move.task.published
