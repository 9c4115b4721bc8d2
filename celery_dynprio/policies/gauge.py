"""Any number of the user's: CPU load, a value in Redis, a business signal."""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import translate

from celery_dynprio.durations import Duration
from celery_dynprio.errors import PolicyError
from celery_dynprio.models import Context, PendingTask
from celery_dynprio.policies.base import Factor, Scorer, is_number, positive_seconds


class Gauge(Factor):
    """A number that is the same for all tasks at a time, scaled so that ``low`` gives 0 and ``high`` gives 1.

    ``low`` above ``high`` turns it round. ``source`` is a number, or a function without arguments. It is read when a
    tick begins, and at producers when they publish, but at most once in ``every`` seconds, so it need not be fast.

    A number that is added to every score changes no order: say with ``match`` (a glob on the task name, as in
    :mod:`fnmatch`) which tasks it speaks of; all other tasks get ``otherwise``. Reports that yield to all else while
    the machine is busy: ``Gauge(cpu_percent, low=90, high=30, match="reports.*", otherwise=1)``. Or let it limit
    another factor: ``Min(Weight(), Gauge(budget_left))``.

    ``name`` is what explanations call it. Raises :class:`~celery_dynprio.errors.PolicyError` for values that are no
    numbers, equal ``low`` and ``high``, and, when read, a source that gives no number.
    """

    def __init__(
        self,
        source: Callable[[], float] | float,
        low: float = 0.0,
        high: float = 1.0,
        *,
        name: str | None = None,
        match: str = "*",
        otherwise: float = 0.0,
        every: Duration = 0.5,
    ) -> None:
        if not callable(source) and not is_number(source):
            raise PolicyError(f"Gauge({source!r}): use a number or a function without arguments that returns one")
        if not is_number(low) or not is_number(high) or low == high:
            raise PolicyError(f"Gauge(low={low!r}, high={high!r}): use two different finite numbers")
        if is_number(source) and not min(low, high) <= source <= max(low, high):
            allowed = f"a constant has to lie between low={low!r} and high={high!r}: give these too, or a function"
            raise PolicyError(f"Gauge({source!r}): {allowed}")
        if not is_number(otherwise) or not 0 <= otherwise <= 1:
            raise PolicyError(f"Gauge(otherwise={otherwise!r}): use a number from 0 to 1")
        self._source = source
        self._low, self._high = low, high
        self._name = name or str(getattr(source, "__name__", "Gauge"))
        self._match, self._matches = match, re.compile(translate(match)).match
        self._otherwise = otherwise
        self._every = positive_seconds("Gauge", "every", every)
        self._reading: tuple[float, float] | None = None

    @property
    def name(self) -> str:
        """What explanations call it: the name given, or that of the function."""
        return self._name

    def bind(self, context: Context) -> Scorer:
        """Read the number and return the scorer. What the source raises is passed on."""
        value = self._value(context.now)
        if self._match == "*":
            return lambda _: value
        known: dict[str, float] = {}
        matches, otherwise = self._matches, self._otherwise

        def score(task: PendingTask) -> float:
            name = task.name
            if name not in known:
                known[name] = value if matches(name) else otherwise
            return known[name]

        return score

    def _value(self, now: float) -> float:
        reading = self._reading  # one assignment and one read: safe between threads
        if reading is None or not 0 <= now - reading[0] < self._every:
            number = self._source() if callable(self._source) else self._source
            if not is_number(number):
                raise PolicyError(f"gauge {self._name!r} gave {number!r}: its function has to return a finite number")
            scaled = (number - self._low) / (self._high - self._low)
            reading = self._reading = now, min(max(scaled, 0.0), 1.0)
        return reading[1]

    def __repr__(self) -> str:
        match = "" if self._match == "*" else f", match={self._match!r}, otherwise={self._otherwise!r}"
        return f"Gauge({self._name}, low={self._low!r}, high={self._high!r}{match})"
