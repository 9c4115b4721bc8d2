"""What ``dynprio top`` knows and what its operator looks at. Pure, but for the lock around it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final

from celery_dynprio.engine.ordering import Turn
from celery_dynprio.operators.results import Listing, QueueStats, Stats


class Sort(Enum):
    """By what the tasks are sorted."""

    TURN = "turn"
    SCORE = "score"
    WAIT = "wait"
    DEADLINE = "deadline"
    KEY = "key"

    def next(self) -> Sort:
        """The one that follows; the first after the last."""
        sorts = list(Sort)
        return sorts[(sorts.index(self) + 1) % len(sorts)]


_SORTS: Final[dict[Sort, Callable[[Turn], tuple[object, ...]]]] = {
    Sort.SCORE: lambda turn: (-turn.score,),
    Sort.WAIT: lambda turn: (-turn.waited,),
    Sort.DEADLINE: lambda turn: (turn.task.deadline is None, turn.task.deadline or 0.0),
    Sort.KEY: lambda turn: (turn.task.key is None, turn.task.key or ""),
}


@dataclass(frozen=True, slots=True)
class Known:
    """What was read of the broker last."""

    stats: Stats
    page: Listing
    #: Moves a second, None until two reads tell.
    rate: float | None = None
    #: Seconds after which a waiting task counts as starving; None if the policy has no such number.
    patience: float | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What the operator looks at."""

    queue: str
    known: Known | None = None
    #: What went wrong with the last read; "" if it went well.
    error: str = ""
    #: What was written to stderr a moment ago, which the screen hides.
    warned: str = ""
    sort: Sort = Sort.TURN
    #: Part of a task's name, or a pattern.
    text: str = ""
    held: bool = False
    frozen: bool = False
    #: The id of the selected task; "" for the first one.
    selected: str = ""
    #: A question that waits for y or n.
    question: str = ""
    #: A text that is being typed.
    typing: str | None = None
    #: What the last operation said, and until when (Unix seconds) it is shown.
    said: str = ""
    said_until: float = 0.0
    #: Lines shown in place of the tasks: an explanation, or the help; and how many of them are above the screen.
    pane: Sequence[str] = ()
    above: int = 0

    @property
    def view(self) -> tuple[str, str, bool]:
        """What is to be read of the broker."""
        return self.queue, self.text, self.held

    def take(self, then: Asked, known: Known, warned: str) -> Asked:
        """Show what was read for what was asked ``then``, unless something else is asked by now, or it was frozen."""
        if self.view != then.view or (self.frozen and self.known is not None):
            return self
        return replace(self, known=known, error="", warned=warned)

    def turns(self) -> list[Turn]:
        """The tasks in the order in which they are shown."""
        turns = [] if self.known is None else list(self.known.page.turns)
        return turns if self.sort is Sort.TURN else sorted(turns, key=_SORTS[self.sort])

    def chosen(self) -> Turn | None:
        """The selected task; None if there is none at all."""
        turns = self.turns()
        return next((turn for turn in turns if turn.task.id == self.selected), turns[0] if turns else None)

    def step(self, by: int) -> Asked:
        """Select another one, so many further on."""
        turns, chosen = self.turns(), self.chosen()
        if chosen is None:
            return self
        index = min(max(turns.index(chosen) + by, 0), len(turns) - 1)
        return replace(self, selected=turns[index].task.id)

    def leave(self) -> Asked:
        """Select the one after, or before the last one: for one that is about to go."""
        after = self.step(1)
        return after if after.chosen() != self.chosen() else self.step(-1)

    def scroll(self, by: int, room: int) -> Asked:
        """Move what is open, of which ``room`` lines are in sight, so many lines on."""
        return replace(self, above=min(max(self.above + by, 0), max(len(self.pane) - room, 0)))

    def open(self, pane: Sequence[str]) -> Asked:
        """Show lines in place of the tasks."""
        return replace(self, pane=pane, above=0)


class State:
    """What is asked now: keys and what was read change it, from several threads; ``redraw`` is called after each."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.redraw: Callable[[], None] = lambda: None
        self._lock = threading.Lock()

    def change(self, to: Callable[[Asked], Asked]) -> None:
        """Replace it by what ``to`` makes of it."""
        with self._lock:
            self.asked = to(self.asked)
        self.redraw()

    def set(self, **changes: Any) -> None:
        """Change some of its fields."""
        self.change(lambda asked: replace(asked, **changes))


def queue_of(asked: Asked, known: Known) -> QueueStats:
    """The figures of the queue that is looked at."""
    return next(queue for queue in known.stats.queues if queue.queue == asked.queue)
