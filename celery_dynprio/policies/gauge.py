"""A number from outside the queue: the CPU load, a value in Redis, a business signal."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fnmatch import translate

from celery_dynprio.durations import Duration
from celery_dynprio.errors import PolicyError
from celery_dynprio.models import Context, PendingTask
from celery_dynprio.policies.base import BulkScorer, Factor, Scorer, is_number, positive_seconds


class Gauge(Factor):
    """A number that is the same for all matching tasks, scaled so that ``low`` gives 0 and ``high`` gives 1.

    If ``low`` is above ``high``, a smaller number is more urgent. ``source`` is a number, or a function without
    arguments. It is read at the start of a tick, and in producers when they publish, but at most once in ``every``
    seconds, so it need not be fast.

    A number that is added to every score does not change the order. So ``match`` (a glob on the task name, as in
    :mod:`fnmatch`) selects the tasks that it applies to; all others get ``otherwise``. To make reports yield to
    everything else while the machine is busy, as HTCondor's policy expressions do with the load average:
    ``Gauge(cpu_percent, low=90, high=30, match="reports.*", otherwise=1)``. To limit another factor:
    ``Min(Weight(), Gauge(budget_left))``.

    ``name`` is shown in explanations. Raises :class:`~celery_dynprio.errors.PolicyError` for values that are not
    numbers, for equal ``low`` and ``high``, and, when it is read, for a source that returns no number.
    """

    asks_ahead = False

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
            allowed = f"a constant has to be between low={low!r} and high={high!r}: set these, too, or use a function"
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
        """The name in explanations: the ``name`` argument, or that of the function."""
        return self._name

    def bind(self, context: Context) -> Scorer:
        """Read the number and return the scorer. Exceptions of the source are not caught."""
        value = self._value(context.now)
        if self._match == "*":
            return BulkScorer(lambda _: value, lambda tasks: [value] * len(tasks))
        known: dict[str, float] = {}
        matches, otherwise = self._matches, self._otherwise

        def score(task: PendingTask) -> float:
            name = task.name
            if name not in known:
                known[name] = value if matches(name) else otherwise
            return known[name]

        def score_all(tasks: Sequence[PendingTask]) -> Sequence[float]:
            return list(map(score, tasks))

        return BulkScorer(score, score_all)

    def _value(self, now: float) -> float:
        reading = self._reading  # read once and assigned once, so it needs no lock
        if reading is None or not 0 <= now - reading[0] < self._every:
            number = self._source() if callable(self._source) else self._source
            if not is_number(number):
                raise PolicyError(f"gauge {self._name!r} gave {number!r}: return a finite number from its function")
            scaled = (number - self._low) / (self._high - self._low)
            reading = self._reading = now, min(max(scaled, 0.0), 1.0)
        return reading[1]

    def __repr__(self) -> str:
        match = "" if self._match == "*" else f", match={self._match!r}, otherwise={self._otherwise!r}"
        return f"Gauge({self._name}, low={self._low!r}, high={self._high!r}{match})"
