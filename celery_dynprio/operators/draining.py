"""Brings what is parked back to what plain Celery sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final
from uuid import uuid4

from celery_dynprio.engine.keeper import Keeper
from celery_dynprio.levels import Bands
from celery_dynprio.models import HELD, OVERFLOW, Move, Outcome, PendingTask, Place
from celery_dynprio.operators.steering import put_in
from celery_dynprio.policies.base import Scorer
from celery_dynprio.ports.broker import Backlog, Broker, UsableLevels
from celery_dynprio.ports.lease import TTL, Lease

#: Tasks that are brought back between two renewals of the lease.
CHUNK: Final = 500


@dataclass(frozen=True, slots=True)
class Drained:
    """What :meth:`Operations.drain` did to one queue."""

    queue: str
    #: Tasks brought back to the front.
    returned: int
    #: Messages put into levels that an app without the add-on looks at.
    merged: int
    #: Held tasks that stay held.
    held: int


class Drain:
    """Drains queues of one broker, best first by ``score``, as of ``now``; ``clock`` tells when a move was made.

    Both are in Unix seconds.
    """

    def __init__(self, broker: Broker, score: Scorer, now: float, clock: Callable[[], float]) -> None:
        self._broker = broker
        self._score = score
        self._now = now
        self._clock = clock
        #: The queues whose producers have been told that levels in between may be used.
        self.stragglers: set[str] = set()

    def run(self, queue: str, *, held: bool) -> Drained:
        """Bring back the overflow of one queue, and what is ``held`` too; merge levels that plain Celery lacks."""
        lease = self._broker.lease(queue, owner=f"drain:{uuid4()}", kind="operator")
        keeper, levels = Keeper(TTL), self._broker.levels(queue)
        backlog = self._broker.backlog(queue, clock=self._clock, beat=keeper.beat)
        keeper.hold(lease)
        try:
            lease.acquire()  # before the first look: a tick that began before the pause must park nothing after it
            with keeper.working():
                places = (OVERFLOW, HELD) if held else (OVERFLOW,)
                returned = sum(self._return(backlog, lease, place) for place in places)
                if levels.now() != levels.plain:
                    self.stragglers.add(queue)
                merged = _merge(levels, lease, keeper)
        finally:
            lease.release()
        return Drained(queue, returned, merged, backlog.count()[HELD])

    def finish(self, drained: Drained) -> Drained:
        """Merge what producers published to levels in between before they heard that these are not used any more."""
        if drained.queue not in self.stragglers:
            return drained
        lease, keeper = self._broker.lease(drained.queue, owner=f"drain:{uuid4()}", kind="operator"), Keeper(TTL)
        try:
            return replace(drained, merged=drained.merged + _merge(self._broker.levels(drained.queue), lease, keeper))
        finally:
            lease.release()

    def _return(self, backlog: Backlog, lease: Lease, place: Place) -> int:
        """Bring back all that is parked in one place; the lease is taken anew for each chunk."""
        scale, score = self._broker.scale, self._score
        bands = Bands.equal(len(scale.levels))
        returned = 0
        while tasks := sorted(backlog.parked(place, self._now), key=lambda task: (-score(task), task.published)):
            before = returned
            for start in range(0, len(tasks), CHUNK):
                chunk = tasks[start : start + CHUNK]
                moves = [put_in(move_back(task, place, score(task), bands, "drain"), scale.plain) for task in chunk]
                returned += backlog.apply(moves, lease.acquire()).count(Outcome.MOVED)
            if returned == before:  # others brought back all of them meanwhile, or these cannot be
                break
        return returned


def _merge(levels: UsableLevels, lease: Lease, keeper: Keeper) -> int:
    """Empty the levels in between, and let them be used no more; return how many messages that moved."""
    merged = 0
    while moved := levels.keep(levels.plain, lease.acquire(), seconds=1.0):
        merged += moved
        keeper.beat()
    return merged


def move_back(task: PendingTask, place: Place, score: float, bands: Bands, reason: str) -> Move:
    """Return the move of a parked task to where it belongs by its score, or to the level it is pinned to."""
    return Move(task, place, bands.level(score) if task.pinned is None else task.pinned, score, reason)
