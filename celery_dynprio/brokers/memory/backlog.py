"""Pending tasks in this process's memory: the model for the other backlogs, and for simulations."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from types import MappingProxyType
from typing import Any

from celery_dynprio import message
from celery_dynprio.brokers.memory.lease import MemoryLeader
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
    is_level,
)
from celery_dynprio.ports.broker import Capabilities, Found


class MemoryScan(Iterator[tuple[Place, PendingTask, bytes]]):
    """What waited at one moment; see :class:`~celery_dynprio.ports.broker.Scan`. The messages are empty."""

    def __init__(self, pending: Sequence[tuple[Place, PendingTask]]) -> None:
        self.look = 1
        self.missed = 0
        self.foreign: Counter[str] = Counter()
        self._pending = iter(pending)

    def __next__(self) -> tuple[Place, PendingTask, bytes]:
        return *next(self._pending), b""

    def keep(self) -> None:
        """Nothing: a task here is moved as it is."""


class MemoryBacklog:
    """A queue of ``levels`` lists and two parked places; see :class:`~celery_dynprio.ports.broker.Backlog`.

    ``fence`` is the only one that may move (None: no leader may). Set it as a lease would, or give the ``leases`` of
    the queue, whose fence counts then.
    """

    def __init__(self, queue: str, levels: int = 10, leases: MemoryLeader | None = None) -> None:
        self._leases = leases
        self.queue = queue
        self.capabilities = Capabilities()
        self.fence: str | None = None
        self._moves = 0
        self._levels: list[deque[PendingTask]] = [deque() for _ in range(levels)]
        self._parked: dict[Place, dict[str, PendingTask]] = {OVERFLOW: {}, HELD: {}, CANCELLED: {}}

    def publish(self, task: PendingTask, level: Place) -> None:
        """Put a task at the back of a level, as a producer does."""
        self._levels[level].append(task)

    def consume(self) -> PendingTask | None:
        """Take the next task, as a worker does; None if none is in the front."""
        return next((tasks.popleft() for tasks in self._levels if tasks), None)

    def read(self, now: float, *, overflow: bool = True) -> Snapshot:  # noqa: ARG002 - all is known here
        """Read what waits. Of two tasks with one id the second is foreign."""
        seen: set[str] = set()
        levels = []
        for level in self._levels:
            fresh = [task for task in level if task.id not in seen and not seen.add(task.id)]  # type: ignore[func-returns-value]
            levels.append(tuple(fresh))
        depths = [len(level) for level in self._levels]
        repeated = sum(depths) - len(seen)
        return Snapshot(
            tuple(levels),
            tuple(depths),
            MappingProxyType(self._parked[OVERFLOW].copy()),
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
        outcomes = [self._apply(move) for move in moves]
        self._moves += outcomes.count(Outcome.MOVED)
        return outcomes

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
        self._moves += parked
        return parked

    def ids_with(self, start: str, now: float) -> set[str]:  # noqa: ARG002 - see read
        """Return the ids that begin with this text, of all that is pending."""
        pending = (*chain.from_iterable(self._levels), *self._parked[HELD].values(), *self._parked[OVERFLOW].values())
        return {task.id for task in pending if task.id.startswith(start)}

    def scan(self, now: float, most: int | None = None, looks: int = 5) -> MemoryScan:  # noqa: ARG002 - see read
        """Look at all that waits."""
        front = [(level, task) for level, tasks in enumerate(self._levels) for task in reversed(tasks)]
        held, overflow = ([(place, task) for task in self._parked[place].values()] for place in (HELD, OVERFLOW))
        return MemoryScan([*front, *held, *overflow][:most])

    def message(self, ref: str, place: Place) -> bytes | None:  # noqa: ARG002 - as headers
        """Nothing: a task here is no message."""
        return None

    def parked_messages(self, place: Place, now: float) -> Iterator[tuple[PendingTask, bytes]]:
        """All tasks in a parked place, each with an empty message."""
        return ((task, b"") for task in self.parked(place, now))

    def cancelled(self, ids: Sequence[str]) -> list[str]:
        """Return those of these tasks that were cancelled and whose end was not published yet."""
        return [task_id for task_id in ids if task_id in self._parked[CANCELLED]]

    def cancelled_messages(self, task_id: str, messages: int = 1) -> dict[str, bytes]:  # noqa: ARG002 - all are at hand
        """The messages of such a task by their names; all are empty."""
        return {ref: b"" for ref, task in self._parked[CANCELLED].items() if task.id == task_id}

    def moves(self) -> int:
        """Return how many moves were ever made."""
        return self._moves

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
        newest = self.fence if self._leases is None else self._leases.fence
        if fence is not None and fence != newest:
            raise LeaseLostError(f"queue {self.queue!r}: {fence!r} is not the newest fence; nothing was moved")

    def _apply(self, move: Move) -> Outcome:
        task = move.task
        if move.source == move.target and not move.first:
            return (
                Outcome.MOVED
                if self._change(task, message.changed(task, move.changes, len(self._levels)), move.source)
                else Outcome.GONE
            )
        copy = self._free_copy(_first(task) if is_level(move.source) else task, move.target)
        if copy is None:
            return Outcome.REFUSED
        if not self._take(task, move.source):
            return Outcome.GONE
        task = message.changed(task, move.changes, len(self._levels))
        if task.copy != copy:
            task = replace(task, copy=copy)
        if not is_level(move.target):
            self._parked[move.target][task.ref] = task
        elif move.first:
            self._levels[move.target].appendleft(task)
        else:
            self._levels[move.target].append(task)
        return Outcome.MOVED

    def _free_copy(self, task: PendingTask, target: Place) -> str | None:
        """What tells a message apart where it shall be; None if it cannot be there, beside another with its id."""
        if is_level(target):
            return ""
        parked = self._parked[target]
        if task.ref not in parked:
            return task.copy
        if target == OVERFLOW:
            return None
        copies = (task.copy + copy_after(others) for others in range(1, MOST_COPIES))
        return next((copy for copy in copies if task.id + copy not in parked), None)

    def _change(self, old: PendingTask, new: PendingTask, place: Place) -> bool:
        if not is_level(place):
            found = self._parked[place].get(old.ref) == old
            if found:
                self._parked[place][old.ref] = new
            return found
        old, new = _first(old), _first(new)
        if old not in self._levels[place]:
            return False
        self._levels[place][self._levels[place].index(old)] = new
        return True

    def _take(self, task: PendingTask, source: Place) -> bool:
        if not is_level(source):
            return self._parked[source].pop(task.ref, None) is not None
        wanted = _first(task)
        for index, each in enumerate(self._levels[source]):
            if each.id == wanted.id and each == wanted:  # the ids first: comparing all fields of each is slow
                del self._levels[source][index]
                return True
        return False


def _first(task: PendingTask) -> PendingTask:
    """The task as the first, or only, message with its id."""
    return replace(task, copy="") if task.copy else task
