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
class Figures:
    """What was read of the broker last."""

    stats: Stats
    listing: Listing
    #: Moves a second, None until two reads tell.
    rate: float | None = None
    #: Seconds after which a waiting task counts as starving; None if the policy has no such number.
    patience: float | None = None


@dataclass(frozen=True, slots=True)
class View:
    """What the operator looks at."""

    queue: str
    figures: Figures | None = None
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
    #: The result of the last operation, and until when (Unix seconds) it is shown.
    message: str = ""
    message_until: float = 0.0
    #: Lines shown in place of the tasks: an explanation, or the help; and how many of them are above the screen.
    pane: Sequence[str] = ()
    above: int = 0

    @property
    def subject(self) -> tuple[str, str, bool]:
        """What is to be read of the broker."""
        return self.queue, self.text, self.held

    def take(self, then: View, figures: Figures, warned: str) -> View:
        """Show the figures that were read for the view ``then``, unless its subject has changed, or it was frozen."""
        if self.subject != then.subject or (self.frozen and self.figures is not None):
            return self
        return replace(self, figures=figures, error="", warned=warned)

    def turns(self) -> list[Turn]:
        """The tasks in the order in which they are shown."""
        turns = [] if self.figures is None else list(self.figures.listing.turns)
        return turns if self.sort is Sort.TURN else sorted(turns, key=_SORTS[self.sort])

    def chosen(self) -> Turn | None:
        """The selected task; None if there is none at all."""
        turns = self.turns()
        return next((turn for turn in turns if turn.task.id == self.selected), turns[0] if turns else None)

    def step(self, by: int) -> View:
        """Select another one, so many further on."""
        turns, chosen = self.turns(), self.chosen()
        if chosen is None:
            return self
        index = min(max(turns.index(chosen) + by, 0), len(turns) - 1)
        return replace(self, selected=turns[index].task.id)

    def leave(self) -> View:
        """Select the one after, or before the last one: for one that is about to go."""
        after = self.step(1)
        return after if after.chosen() != self.chosen() else self.step(-1)

    def scroll(self, by: int, room: int) -> View:
        """Move what is open, of which ``room`` lines are in sight, so many lines on."""
        return replace(self, above=min(max(self.above + by, 0), max(len(self.pane) - room, 0)))

    def open(self, pane: Sequence[str]) -> View:
        """Show lines in place of the tasks."""
        return replace(self, pane=pane, above=0)


class State:
    """The present view. Keys and new figures change it, from several threads; ``redraw`` is called after each."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.redraw: Callable[[], None] = lambda: None
        self._lock = threading.Lock()

    def change(self, to: Callable[[View], View]) -> None:
        """Replace it by what ``to`` makes of it."""
        with self._lock:
            self.view = to(self.view)
        self.redraw()

    def set(self, **changes: Any) -> None:
        """Change some of its fields."""
        self.change(lambda view: replace(view, **changes))


def queue_of(view: View, figures: Figures) -> QueueStats:
    """The figures of the queue that is looked at."""
    return next(queue for queue in figures.stats.queues if queue.queue == view.queue)
