"""Levels: how a broker numbers them, and the bands of scores that give a task its level. Pure.

Bands are of equal width, with hysteresis so that a task at an edge does not flap.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

#: Bands are spread between these percentiles of the pending scores; scores beyond them get the first or last level.
LOW_PERCENTILE: Final = 0.05
HIGH_PERCENTILE: Final = 0.98

#: All bands together are never narrower than this, so that noise between nearly equal scores causes no moves.
NARROWEST: Final = 0.15

#: More than what rounding may do to a score.
ROUNDING: Final = 1e-9

#: kombu's own ``priority_steps``: an app that sets none, and loads no add-on, looks at these levels only.
KOMBU_STEPS: Final = (0, 3, 6, 9)


class AddedSteps(list[int]):
    """The ``priority_steps`` that the add-on gives to an app without its own: whoever reads them can tell whose."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How a broker numbers the levels of a queue: kombu's Redis transport by ``priority_steps``, ascending.

    A message is given the number of a *plain* level only, one that workers without the add-on take from too, so that a
    worker of any kind that gives it back puts it where all of them look.
    """

    #: The broker's number for each level, ascending.
    numbers: tuple[int, ...]
    #: The numbers of the plain levels.
    plain_numbers: tuple[int, ...]

    @classmethod
    def of(cls, steps: Sequence[int]) -> Scale:
        """Return the scale of kombu's ``priority_steps``: the user's own are all plain, of ours only kombu's are."""
        return cls(tuple(steps), KOMBU_STEPS if isinstance(steps, AddedSteps) else tuple(steps))

    @property
    def levels(self) -> range:
        """All levels, the first is 0."""
        return range(len(self.numbers))

    @property
    def plain(self) -> tuple[int, ...]:
        """The plain levels, ascending."""
        return tuple(level for level in self.levels if self.numbers[level] in self.plain_numbers)

    def level_of(self, number: int) -> int:
        """Return the level in which the broker puts a message with this number: the rule of ``Channel.priority``."""
        return max(bisect_right(self.numbers, number) - 1, 0)

    def number_of(self, level: int) -> int:
        """Return the number to give to a message in this level: that of the plain level at or before it."""
        plain = self.plain_numbers
        return plain[max(bisect_right(plain, self.numbers[level]) - 1, 0)]


def steps_in(conf: Mapping[str, Any]) -> Sequence[int]:
    """Return the ``priority_steps`` in Celery settings, kombu's own if there are none."""
    return (conf.get("broker_transport_options") or {}).get("priority_steps") or KOMBU_STEPS


def at_or_before(level: int, usable: Sequence[int]) -> int:
    """Return the last of the ``usable`` levels (ascending, the first is 0) that is not behind ``level``."""
    return usable[bisect_right(usable, level) - 1]


@dataclass(frozen=True, slots=True)
class Bands:
    """``count`` bands of equal width between ``low`` and ``high``; the highest scores are level 0."""

    low: float
    high: float
    count: int

    @classmethod
    def equal(cls, count: int) -> Bands:
        """Return bands over all possible scores, for producers, which do not know the backlog."""
        return cls(0.0, 1.0, count)

    @classmethod
    def fit(cls, scores: Iterable[float], count: int, previous: Bands | None = None, smoothing: float = 0.2) -> Bands:
        """Spread ``count`` bands over the pending scores, moving only ``smoothing`` of the way from ``previous``.

        ``smoothing`` is in (0, 1]. If all scores are nearly equal, they get the level that :meth:`equal` gives to
        their middle, so that new tasks stay where their producer put them. Without scores nothing changes, and the
        first ones count in full.
        """
        if previous is not None and (previous.count != count or previous == cls.equal(count)):
            previous = None  # of another scale, or nothing was fitted yet
        ordered = sorted(scores)
        if not ordered:
            return previous or cls.equal(count)
        last = len(ordered) - 1
        low, high = ordered[int(LOW_PERCENTILE * last)], ordered[math.ceil(HIGH_PERCENTILE * last)]
        if high - low < NARROWEST:
            low = (low + high) / 2 * (1.0 - NARROWEST)
            high = low + NARROWEST
        if previous is not None:
            low = previous.low + smoothing * (low - previous.low)
            high = previous.high + smoothing * (high - previous.high)
        return cls(low, high, count)

    @property
    def width(self) -> float:
        """The width of one band, in units of the score."""
        return (self.high - self.low) / self.count

    def level(self, score: float) -> int:
        """Return the level of a score: 0 for the highest band and beyond, ``count - 1`` for the lowest and beyond."""
        return self.count - 1 - min(max(int(self._position(score)), 0), self.count - 1)

    def settle(self, score: float, current: int, hysteresis: float) -> int:
        """Return the level of a task that is at level ``current``.

        The level stays the same until the score is beyond the edge of the band by ``hysteresis`` (a fraction of the
        band's width). So a score that varies by less than that changes level at most once.
        """
        return self.settler(hysteresis)(score, current)

    def settler(self, hysteresis: float) -> Callable[[float, int], int]:
        """Return :meth:`settle` for many tasks: a function from a score and a present level to a level."""
        low, last, count, width = self.low, self.count - 1, self.count, self.high - self.low

        def settle(score: float, current: int) -> int:
            position, own = (score - low) * count / width, last - current
            if own - hysteresis <= position < own + 1 + hysteresis:
                return current
            return last - min(max(int(position), 0), last)

        return settle

    def reach(self, level: int, hysteresis: float) -> tuple[float, float]:
        """Return the scores between which a task of this level stays, as :meth:`settle` says, but for rounding."""
        own, last = self.count - 1 - level, self.count - 1
        low, high = self.low + (own - hysteresis) * self.width, self.low + (own + 1 + hysteresis) * self.width
        return low + ROUNDING if own else -math.inf, high - ROUNDING if own < last else math.inf

    def lowest(self, level: int) -> float:
        """Return the score below which a task is put behind this level, but for rounding."""
        last = self.count - 1
        return -math.inf if level == last else self.low + (last - level) * self.width - ROUNDING

    def middle(self, level: int) -> float:
        """Return the score in the middle of a level's band."""
        return self.low + (self.count - level - 0.5) * self.width

    def _position(self, score: float) -> float:
        """How many bands the score is above the lowest edge."""
        return (score - self.low) * self.count / (self.high - self.low)
