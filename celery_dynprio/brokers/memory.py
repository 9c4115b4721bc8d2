"""Pending tasks in this process's memory: the model for the other backlogs, and for simulations."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from celery_dynprio import message
from celery_dynprio.errors import LeaseLostError
from celery_dynprio.models import (
    CANCELLED,
    HELD,
    MOST_COPIES,
    OVERFLOW,
    Move,
    Outcome,
    PendingTask,
    Place,
    Snapshot,
    copy_after,
)
from celery_dynprio.ports.broker import Capabilities, Found


class MemoryBacklog:
    """A queue of ``levels`` lists and two parked places; see :class:`~celery_dynprio.ports.broker.Backlog`.

    ``fence`` is the only one that may move (None: any may); set it as a lease would.
    """

    def __init__(self, queue: str, levels: int = 10) -> None:
        self.queue = queue
        self.capabilities = Capabilities()
        self.fence: str | None = None
        self._levels: list[deque[PendingTask]] = [deque() for _ in range(levels)]
        self._parked: dict[Place, dict[str, PendingTask]] = {OVERFLOW: {}, HELD: {}, CANCELLED: {}}

    def publish(self, task: PendingTask, level: Place) -> None:
        """Put a task at the back of a level, as a producer does."""
        self._levels[level].append(task)

    def consume(self) -> PendingTask | None:
        """Take the next task, as a worker does; None if none is in the front."""
        return next((tasks.popleft() for tasks in self._levels if tasks), None)

    def read(self, now: float) -> Snapshot:  # noqa: ARG002 - every task here knows when it was published
        """Read what waits. Of two tasks with one id the second is foreign."""
        seen: set[str] = set()
        levels = []
        for level in self._levels:
            fresh = [task for task in level if task.id not in seen and not seen.add(task.id)]  # type: ignore[func-returns-value]
            levels.append(tuple(fresh))
        depths = [len(level) for level in self._levels]
        repeated = sum(depths) - len(seen)
        return Snapshot(
            levels,
            depths,
            self._parked[OVERFLOW],
            len(self._parked[OVERFLOW]),
            len(self._parked[HELD]),
            len(self._parked[CANCELLED]),
            {"duplicate id": repeated} if repeated else {},
        )

    def find(self, ids: Collection[str], now: float) -> dict[str, list[Found]]:  # noqa: ARG002 - see read
        """Look for these tasks in all places but the cancelled."""
        found: dict[str, list[Found]] = {}
        waiting = ((task, level) for level, tasks in enumerate(self._levels) for task in tasks)
        for ahead, (task, level) in enumerate(waiting):
            if task.id in ids:
                earlier = found.setdefault(task.id, [])
                earlier.append(Found(replace(task, copy=copy_after(len(earlier))), level, ahead))
        for place in (HELD, OVERFLOW):
            for task in self._parked[place].values():
                if task.id in ids:
                    found.setdefault(task.id, []).append(Found(task, place, 0))
        return found

    def headers(self, moves: Sequence[Move]) -> dict[str, Mapping[str, Any]]:  # noqa: ARG002 - there are no messages here
        """Nothing: a task here is no message."""
        return {}

    def apply(self, moves: Sequence[Move], fence: str | None = None, audit: str = "") -> list[Outcome]:  # noqa: ARG002 - nothing outlives this process
        """Make the moves in this order."""
        self._check(fence)
        return [self._apply(move) for move in moves]

    def spill(self, count: int, now: float, fence: str | None = None) -> int:  # noqa: ARG002 - see read
        """Park the newest tasks of the last levels, at most ``count``."""
        self._check(fence)
        moves: list[Move] = []
        for level in reversed(range(len(self._levels))):
            moves += [Move(task, level, OVERFLOW, 0.0, "overflow") for task in reversed(self._levels[level])]
        parked = 0
        for move in moves:
            if parked >= count:
                break
            parked += self._apply(move) is Outcome.MOVED
        return parked

    def parked(self, place: Place, now: float) -> list[PendingTask]:  # noqa: ARG002 - see read
        """All tasks in one of the two parked places."""
        return list(self._parked[place].values())

    def count(self) -> dict[Place, int]:
        """Tasks in each place."""
        levels = {level: len(tasks) for level, tasks in enumerate(self._levels)}
        return levels | {place: len(tasks) for place, tasks in self._parked.items()}

    def cost(self, move: Move) -> float:  # noqa: ARG002 - memory is free
        """Nothing."""
        return 0.0

    def discard(self, ref: str, place: Place) -> bool:
        """Remove one parked message for good; tell whether it was there."""
        return self._parked[place].pop(ref, None) is not None

    def close(self) -> None:
        """Nothing to give back."""

    def _check(self, fence: str | None) -> None:
        if fence is not None and fence != self.fence:
            raise LeaseLostError(f"queue {self.queue!r}: {fence!r} is not the newest fence; nothing was moved")

    def _apply(self, move: Move) -> Outcome:
        task = move.task
        if move.source == move.target and not move.first:
            return (
                Outcome.MOVED
                if self._change(task, message.changed(task, move.changes, len(self._levels)), move.source)
                else Outcome.GONE
            )
        copy = self._free_copy(task if move.source < 0 else replace(task, copy=""), move.target)
        if copy is None:
            return Outcome.REFUSED
        if not self._take(task, move.source):
            return Outcome.GONE
        task = replace(message.changed(task, move.changes, len(self._levels)), copy=copy)
        if move.target < 0:
            self._parked[move.target][task.ref] = task
        elif move.first:
            self._levels[move.target].appendleft(task)
        else:
            self._levels[move.target].append(task)
        return Outcome.MOVED

    def _free_copy(self, task: PendingTask, target: Place) -> str | None:
        """What tells a message apart where it shall be; None if it cannot be there, beside another with its id."""
        if target >= 0:
            return ""
        parked = self._parked[target]
        if task.ref not in parked:
            return task.copy
        if target == OVERFLOW:
            return None
        copies = (task.copy + copy_after(others) for others in range(1, MOST_COPIES))
        return next((copy for copy in copies if task.id + copy not in parked), None)

    def _change(self, old: PendingTask, new: PendingTask, place: Place) -> bool:
        if place < 0:
            found = self._parked[place].get(old.ref) == old
            if found:
                self._parked[place][old.ref] = new
            return found
        old, new = replace(old, copy=""), replace(new, copy="")
        if old not in self._levels[place]:
            return False
        self._levels[place][self._levels[place].index(old)] = new
        return True

    def _take(self, task: PendingTask, source: Place) -> bool:
        if source < 0:
            return self._parked[source].pop(task.ref, None) is not None
        try:
            self._levels[source].remove(replace(task, copy=""))
        except ValueError:
            return False
        return True
