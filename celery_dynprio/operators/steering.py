"""What became of the tasks that an operator steers: one result an id, however many messages have that id."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from celery_dynprio.models import Move, Outcome
from celery_dynprio.operators.fates import AT_WORKERS, Answer, Fate
from celery_dynprio.ports.broker import Backlog, Found

#: What to do with a message that was found: a move, or why there is nothing to do.
Deed: TypeAlias = "Move | str"

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


def told(fates: Mapping[str, Fate]) -> list[Result]:
    """What is answered for tasks that are not pending."""
    return [Result(task_id, fate.answer, detail=fate.detail) for task_id, fate in fates.items()]


def revoked(fates: Mapping[str, Fate]) -> list[Result]:
    """What is answered for tasks that are not pending, once the workers were told to discard them."""
    return [_revoked(task_id, fate) for task_id, fate in fates.items()]


def also(removed: Result, other: Result) -> Result:
    """The answer for a task of which a pending message was removed, while a worker has another."""
    others = f"another message with its id: {other.answer.value}, {other.detail}"
    return replace(removed, detail="; ".join(filter(None, (removed.detail, others))))


def _revoked(task_id: str, fate: Fate) -> Result:
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
        """The answer for the operator."""
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
