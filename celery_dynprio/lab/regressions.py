"""Whether a changed policy breaks what was promised: for continuous integration. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from celery_dynprio.lab.comparison import OVERALL, Duel, Measure, duel, is_better, is_clear, of_classes
from celery_dynprio.lab.lookup import measure_named
from celery_dynprio.lab.study import Study
from celery_dynprio.lab.wording import shown


def promised(option: str, texts: Sequence[str], found: Study, own: str, other: str) -> list[Duel]:
    """How a policy stands against the one before in each of the measures that are named.

    With 20 seeds or more all intervals hold together with 95 % confidence. Raises
    :class:`~celery_dynprio.errors.ArgumentError`, with the name of the option, for a measure that there is not.
    """
    known = [each for each in (*OVERALL, *of_classes(found)) if duel(found, own, other, each) is not None]
    wanted = list(dict.fromkeys(measure_named(option, text, known) for text in texts))
    return [each for one in wanted if (each := duel(found, own, other, one, len(wanted))) is not None]


def is_worse(found: Duel) -> bool:
    """Whether it is worse by more than the noise."""
    return is_clear(found) and not is_better(found)


def told(found: Duel) -> str:
    """What became of a promise, in a line."""
    measure, difference = found.measure, found.difference
    line = f"{'Worse' if is_worse(found) else 'Kept'}: {measure.title} is {_value(measure, found.own)}"
    line += f", with the other policy {_value(measure, found.other)}"
    if difference.low is None or difference.high is None:
        return line
    between = f"{shown(measure, difference.low, sign='+')} to {shown(measure, difference.high, sign='+')}"
    return f"{line} (difference {between}, 95 % confident)"


def _value(measure: Measure, value: float) -> str:
    return f"{shown(measure, value)}{measure.unit}"
