"""One operation on some tasks: on all messages with their ids, wherever they are by then.

There is one result an id, however many messages have that id.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from celery_dynprio.levels import at_or_before
from celery_dynprio.models import Move, Outcome, Place, is_level
from celery_dynprio.operators.fates import AT_WORKERS, Answer, Fate, Fates
from celery_dynprio.operators.sightings import Selection
from celery_dynprio.ports.broker import Backlog, Found

#: What to do with a message that was found: a move, or why there is nothing to do.
Deed: TypeAlias = "Move | str"

#: How often a task is looked for again that was moved by others between the look and the deed.
MOST_TRIES: Final = 20

_BUSY: Final = "it was moved each time it was looked up; try again"

_UNKNOWN: Final = "nobody knows it: check the id; workers that are up discard it if it reaches them"

_REFUSED: Final = "there are too many messages with this id"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of an operation on one task."""

    id: str
    answer: Answer
    #: "" for a task that is not pending, and so unknown.
    name: str = ""
    queue: str = ""
    #: More about it in a few words, or "".
    detail: str = ""
    #: How many messages with this id it was done to.
    messages: int = 0


def results_of(fates: Mapping[str, Fate]) -> list[Result]:
    """Return the results for tasks that are not pending."""
    return [Result(task_id, fate.answer, detail=fate.detail) for task_id, fate in fates.items()]


def results_once_revoked(fates: Mapping[str, Fate]) -> list[Result]:
    """Return the results for tasks that are not pending, once the workers were told to discard them."""
    return [_once_revoked(task_id, fate) for task_id, fate in fates.items()]


def with_other(removed: Result, other: Result) -> Result:
    """Return the result for a task of which a pending message was removed, while a worker has another."""
    others = f"another message with its id: {other.answer.value}, {other.detail}"
    return replace(removed, detail="; ".join(filter(None, (removed.detail, others))))


def _once_revoked(task_id: str, fate: Fate) -> Result:
    if fate.answer is Answer.NOT_FOUND:
        return Result(task_id, Answer.REVOKED, detail=_UNKNOWN)
    if fate.answer is Answer.RUNNING:
        return Result(task_id, fate.answer, detail=f"{fate.detail}; it is not terminated".removeprefix("; "))
    if fate.answer not in AT_WORKERS:
        return Result(task_id, fate.answer, detail=fate.detail)
    was = f"it was {fate.answer.value} {fate.detail}"
    if fate.sure:
        return Result(task_id, Answer.DONE, detail=f"{was}; it will be discarded then")
    return Result(task_id, Answer.REVOKED, detail=f"{was}; it is discarded unless it has started already")


@dataclass(frozen=True, slots=True)
class Operation:
    """What to do to each of the tasks."""

    deed: Callable[[Found], Deed]
    #: A JSON object, kept in the audit with each move.
    note: str
    #: Whether the last one is done first.
    backwards: bool = False
    #: Returns the results for tasks that are not pending.
    elsewhere: Callable[[Mapping[str, Fate]], list[Result]] = results_of


@dataclass(slots=True)
class Tally:
    """What became so far of the pending messages with one id."""

    name: str = ""
    queue: str = ""
    #: The most that one look found, and those that something was done to.
    seen: int = 0
    moved: int = 0
    #: Why nothing was done to the others.
    idle: str = ""

    def result(self, task_id: str) -> Result:
        """Return the result for the operator."""
        moved = min(self.moved, self.seen)  # what was moved twice, because others moved it in between, counts once
        detail = "" if moved else self.idle
        if self.seen > 1 and moved:
            detail = f"{'all' if moved == self.seen else moved} of {self.seen:,} messages with this id"
            detail += f", the rest: {self.idle}" if self.idle and moved < self.seen else ""
        answer = Answer.BUSY if not moved and self.idle == _REFUSED else Answer.DONE
        return Result(task_id, answer, self.name, self.queue, detail, moved)


def carry_out(
    backlog: Backlog,
    found: Mapping[str, Sequence[Found]],
    deed: Callable[[Found], Deed],
    tallies: Mapping[str, Tally],
    note: str,
    *,
    backwards: bool = False,
) -> set[str]:
    """Do it to all messages that were found, in their order or ``backwards``, and keep the tallies by id.

    Returns the ids of those that somebody else moved or took since: they have to be looked for again.
    """
    moves: list[Move] = []
    for task_id, same in found.items():
        tally = tallies[task_id]
        tally.name, tally.queue = same[0].task.name, backlog.queue
        tally.seen = max(tally.seen, len(same))
        for each in same:
            wanted = deed(each)
            if isinstance(wanted, Move):
                moves.append(wanted)
            else:
                tally.idle = wanted
    if backwards:
        moves.reverse()
    gone: set[str] = set()
    for move, outcome in zip(moves, backlog.apply(moves, audit=note), strict=True):
        tally = tallies[move.task.id]
        tally.moved += outcome is Outcome.MOVED
        if outcome is Outcome.GONE:
            gone.add(move.task.id)
        elif outcome is Outcome.REFUSED:
            tally.idle = _REFUSED
    return gone


class Steering:
    """Does one operation to the tasks of one selection. Any that others move meanwhile is looked for again.

    ``usable`` has, for each queue, what returns the levels that tasks may be put into; ``clock`` gives Unix seconds.
    """

    def __init__(
        self,
        operation: Operation,
        selection: Selection,
        backlogs: Mapping[str, Backlog],
        *,
        usable: Mapping[str, Callable[[], Sequence[Place]]],
        fates: Fates,
        clock: Callable[[], float],
    ) -> None:
        self._operation = operation
        self._selection = selection
        self._backlogs = backlogs
        self._usable = usable
        self._fates = fates
        self._clock = clock
        self._results: dict[str, Result] = {}
        self._tallies: dict[str, Tally] = defaultdict(Tally)
        self._missed: set[str] = set()

    def run(self, record: Callable[[Result], object]) -> list[Result]:
        """Do it; ``record`` is called with the results for tasks that are not pending. The results are in order."""
        ids = list(dict.fromkeys(self._selection.ids))
        for attempt in range(MOST_TRIES):
            left = [task_id for task_id in ids if task_id not in self._results]
            if not left:
                break
            seen = self._act(left, first=attempt == 0)
            missing = [task_id for task_id in left if task_id not in seen and task_id not in self._results]
            for result in self._look_elsewhere(missing) if missing else ():
                self._results[result.id] = result
                record(result)
        return [self._results.get(task_id, Result(task_id, Answer.BUSY, detail=_BUSY)) for task_id in ids]

    def _act(self, ids: Sequence[str], *, first: bool) -> set[str]:
        """Do it to all messages with these ids that are found; return the ids of these."""
        seen: set[str] = set()
        lost: set[str] = set()
        for queue, backlog in self._backlogs.items():
            sightings = self._selection.sightings.get(queue) if first else None
            now = self._clock()
            found = backlog.find(ids, now) if sightings is None else sightings.find(backlog, ids, now)
            found = {task_id: found[task_id] for task_id in ids if task_id in found}
            seen |= found.keys()
            deed = _into(self._operation.deed, self._usable[queue]())
            lost |= carry_out(
                backlog, found, deed, self._tallies, self._operation.note, backwards=self._operation.backwards
            )
        for task_id in ids:
            done = task_id not in lost if task_id in seen else self._tallies[task_id].moved
            if done:
                self._results[task_id] = self._tallies[task_id].result(task_id)
        return seen

    def _look_elsewhere(self, missing: Sequence[str]) -> list[Result]:
        fates = self._fates.of(missing)
        # Twice, because a worker that stops may have given it back behind our look.
        sure = {
            task_id: fate
            for task_id, fate in fates.items()
            if fate.answer is not Answer.NOT_FOUND or task_id in self._missed
        }
        self._missed.update(missing)
        return self._operation.elsewhere(sure) if sure else []


def put_in(move: Move, usable: Sequence[Place]) -> Move:
    """Return the same move, into one of these levels."""
    return replace(move, target=at_or_before(move.target, usable)) if is_level(move.target) else move


def _into(deed: Callable[[Found], Deed], usable: Sequence[Place]) -> Callable[[Found], Deed]:
    """Return the same deed, which puts tasks only into these levels."""

    def usable_deed(found: Found) -> Deed:
        wanted = deed(found)
        return put_in(wanted, usable) if isinstance(wanted, Move) else wanted

    return usable_deed
