"""Which pending tasks to move now. Pure: (what waits and where, scores, now) -> moves.

The order that the planner works towards: each task at the level of its score's band; within a level, as they came.
A move puts a task at the back of its target, so tasks with equal scores are moved together, oldest first: a younger
one never gets ahead. (One exception: demoting more equal tasks than the budget allows takes several ticks, and until
it is complete the younger ones are ahead.)
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat, takewhile
from typing import Final, NamedTuple

from celery_dynprio.engine.budget import Budget
from celery_dynprio.engine.homes import Homes
from celery_dynprio.engine.scored import Front, Scored, age, best_of
from celery_dynprio.engine.starvation import Starvation
from celery_dynprio.levels import Bands, at_or_before
from celery_dynprio.models import OVERFLOW, Move, PendingTask, Place, Snapshot
from celery_dynprio.policies.base import all_of

#: One tick exchanges at most so many tasks between a full front and the overflow.
MOST_SWAPS: Final = 100

#: So many starving tasks, or half of level 0, keep their place there once lifted; the others of a flood make room.
LIFTED_KEPT: Final = 100

#: Of more scores than this only every n-th counts for the bands: so many are enough for percentiles.
PERCENTILES_OF: Final = 2000


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now: the moves, in the order in which to make them."""

    moves: tuple[Move, ...]
    #: To be handed to the next plan of the same queue.
    bands: Bands
    #: Moves that were wanted but over the budget.
    deferred: int
    #: The tasks that are at level 0, or will be, only because they starve.
    lifted: tuple[PendingTask, ...]


class _Starving(NamedTuple):
    """What is done with the starving tasks."""

    #: The ids of those that the score does not move now.
    staying: set[str]
    #: To be lifted to level 0 now.
    rising: list[Scored]
    #: These, and those that were lifted before.
    lifted: tuple[PendingTask, ...]


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
        starvation: Starvation | None = None,
        near: int | None = None,
        cost: Callable[[Move], float],
        budget: float,
        yields: Callable[[PendingTask], bool] | None = None,
        usable: Sequence[Place] | None = None,
    ) -> Plan:
        """Choose moves for at most ``budget`` seconds of broker time as told by ``cost``; one, if any is wanted.

        ``score`` must give numbers in [0, 1]. ``bands`` are those of the last plan, None at first. ``starvation`` tells
        who starves, and how many of these may go to level 0. Only the ``near`` next tasks are put in order (None: all).
        Tasks of the front that ``yields`` is true of are parked; the overflow is to be given without them. Tasks are
        put only into ``usable`` levels (ascending, from 0 on; None: all): what belongs to another goes to the last of
        these before that. Equal arguments give equal plans.
        """
        front = Front.of(snapshot, score)
        bands = self._bands(snapshot, front.all_scores, score, bands)
        places = [at_or_before(level, usable or range(self.levels)) for level in range(self.levels)]
        homes = Homes(bands, places, self.hysteresis)
        yielding = list(front.having(yields)) if yields else []
        front = front.without(_ids(yielding))
        parked = list(_parked(snapshot, score, bands))
        starving = _starving(snapshot, front, parked, homes, starvation or Starvation(), now=now)
        free = front.without(starving.staying)
        leaving, entering = self._exchange(snapshot, free, _without(parked, _ids(starving.rising)), homes.margin)
        units = [
            *([each.move(0, "starving")] for each in starving.rising),
            *([_held_back(each)] for each in yielding),
            *([each.move(OVERFLOW, "overflow")] for each in leaving),
            *homes.pinned(snapshot, entering),
            *homes.settled(free.without(_ids(leaving)), entering, near),
        ]
        moves, deferred = Budget(budget, cost, self.levels).choose(units)
        return Plan(tuple(sorted(moves, key=_apply_order)), bands, deferred, starving.lifted)

    def _bands(
        self,
        snapshot: Snapshot,
        scores: Sequence[float],
        score: Callable[[PendingTask], float],
        previous: Bands | None,
    ) -> Bands:
        if not scores:
            scores = [score(task) for task in snapshot.overflow.values() if task.pinned is None]
        return Bands.fit(scores[:: len(scores) // PERCENTILES_OF + 1], self.levels, previous)

    def _exchange(
        self, snapshot: Snapshot, front: Front, parked: Sequence[Scored], margin: float
    ) -> tuple[list[Scored], list[Scored]]:
        """Return who leaves the front and who enters it: refill it to the window, or swap when it is full."""
        room = self.window - sum(snapshot.depths)
        if not parked or room > 0:
            return [], best_of(parked, room)
        best = best_of(parked, MOST_SWAPS)
        worst = front.without(snapshot.overflow).worst(MOST_SWAPS)
        pairs = list(takewhile(lambda pair: _gains(*pair, margin), zip(worst, best, strict=False)))
        return [out for out, _ in pairs], [into for _, into in pairs]


def _parked(snapshot: Snapshot, score: Callable[[PendingTask], float], bands: Bands) -> Iterator[Scored]:
    """The overflow; a pinned task counts with the score that its level stands for."""
    if not snapshot.overflow:
        return
    front = {task.id for tasks in snapshot.levels for task in tasks}
    parked = [task for task in snapshot.overflow.values() if task.id not in front]
    free = [task for task in parked if task.pinned is None]
    yield from map(Scored, free, repeat(OVERFLOW), all_of(score, free))
    for task in parked:
        if task.pinned is not None:
            yield Scored(task, OVERFLOW, bands.middle(task.pinned))


def _starving(
    snapshot: Snapshot, front: Front, parked: Sequence[Scored], homes: Homes, starvation: Starvation, *, now: float
) -> _Starving:
    """Choose among the starving tasks, oldest first.

    So those that were lifted before are the oldest of all and need not be remembered.
    """
    since = starvation.since(now)
    most = max(LIFTED_KEPT, snapshot.depths[0] // 2)
    oldest = heapq.nsmallest(most, front.published_before(since), key=age)
    waiting = (each for each in parked if each.task.published < since and each.task.pinned is None)
    kept = list(takewhile(lambda each: each.place == 0, oldest))
    lifted = [each.task for each in kept if homes.of(each.score) != 0]
    candidates = heapq.nsmallest(most, [*oldest[len(kept) :], *waiting], key=age)
    rising: list[Scored] = []
    if candidates:
        room = starvation.room(snapshot.levels, lifted, now)
        rising = list(takewhile(lambda each: room.take(each.task), candidates))
    return _Starving(_ids(kept) | _ids(rising), rising, (*lifted, *(each.task for each in rising)))


def _ids(tasks: Iterable[Scored]) -> set[str]:
    return {each.task.id for each in tasks}


def _without(tasks: list[Scored], ids: Collection[str]) -> list[Scored]:
    return [each for each in tasks if each.task.id not in ids] if ids else tasks


def _held_back(each: Scored) -> Move:
    """Stores the publish time, if the message has none, so that a new leader does not restart the clock."""
    return Move(each.task, each.place, OVERFLOW, each.score, "objective", {"at": each.task.published})


def _gains(out: Scored, into: Scored, margin: float) -> bool:
    """Tell whether a swap is worth its two moves; an older task that is as good belongs in the front."""
    if into.score > out.score + margin:
        return True
    return into.score >= out.score and into.task.published < out.task.published


def _apply_order(move: Move) -> tuple[Place, float]:
    return move.target, move.task.published
