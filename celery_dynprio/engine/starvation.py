"""How much of the workers' time starving tasks may have before all others. Pure.

Counted in seconds of work and not in tasks: tasks that a policy keeps waiting are mostly long ones, and a few of them
hold all workers. They earn a part of the work that leaves the queue, and go first as long as they have some left.
While there are as many tasks near a deadline as workers start, they have to do with a smaller part, so that they seldom
make others late, and still none waits for ever.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from celery_dynprio.models import PendingTask

#: The part of the work that leaves which may be that of starving tasks.
SHARE: Final = 0.5

#: The same while others are near their deadline.
LEAST_SHARE: Final = 0.2

#: They save up what all workers do in so many seconds, or between two looks, at most.
SAVED_SECONDS: Final = 1.0

#: Seconds of work that they have before anything was seen to leave: enough for one of them to go.
FIRST: Final = 0.1

#: They may be this part of the work at level 0 in any case, so that they get on behind a flood there, too.
STARVING_PART: Final = 0.2

#: A task is near its deadline when that is at most so many seconds away.
NEAR_DEADLINE: Final = 40.0


class Credit:
    """The seconds of work that starving tasks may have now. Below 0 they have had more than their part."""

    def __init__(self) -> None:
        self._full = self._least = FIRST

    def earn(self, work: float, pace: float, span: float) -> None:
        """Take in that ``work`` (seconds) left the queue in ``span`` seconds; ``pace`` is how much does in a second."""
        most = pace * max(span, SAVED_SECONDS)
        self._full = min(self._full + SHARE * work, most)
        self._least = min(self._least + LEAST_SHARE * work, most)

    def spend(self, work: float) -> None:
        """Take in that starving tasks of so many seconds went before others."""
        self._full -= work
        self._least -= work

    def left(self, *, crowded: bool) -> float:
        """Return what is left; ``crowded``: as many others as workers start are near their deadline."""
        return self._least if crowded else self._full


@dataclass(frozen=True, slots=True)
class Starvation:
    """Which tasks of a queue starve, and how many of them may go first."""

    #: Seconds after which a task starves; None if none does.
    patience: float | None = None
    credit: Credit = field(default_factory=Credit)
    #: The expected seconds of a task.
    seconds: Callable[[PendingTask], float] = lambda _: 1.0
    #: How many tasks start before the next look.
    starts: int = 1

    def since(self, now: float) -> float:
        """Return the Unix time before which a task was published that starves."""
        return -math.inf if self.patience is None else now - self.patience

    def room(self, levels: Sequence[Sequence[PendingTask]], lifted: Iterable[PendingTask], now: float) -> Room:
        """Return how much may be lifted in a queue with these ``levels``; ``lifted`` are those that are already."""
        near = sum(is_near_deadline(task, now) for task in chain.from_iterable(levels))
        credit = self.credit.left(crowded=near >= self.starts)
        urgent = math.fsum(map(self.seconds, levels[0])) if levels else 0.0
        return Room(self.seconds, credit, urgent * STARVING_PART, math.fsum(map(self.seconds, lifted)))


@dataclass(slots=True)
class Room:
    """How much work of starving tasks may be lifted."""

    seconds: Callable[[PendingTask], float]
    credit: float
    #: Seconds that they may have in any case.
    least: float
    #: Seconds that they have.
    used: float

    def take(self, task: PendingTask) -> bool:
        """Lift one, if there is room for it; tell whether there is."""
        seconds = self.seconds(task)
        fits = self.used < self.credit or self.used + seconds <= self.least
        self.used += seconds if fits else 0.0
        return fits


def is_near_deadline(task: PendingTask, now: float) -> bool:
    """Tell whether a task may still meet its deadline, and soon has to."""
    return task.deadline is not None and 0 <= task.deadline - now <= NEAR_DEADLINE
