"""Finds a measure by what a person types: "weighted mean wait", "in time", "weight 9 p95". Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from celery_dynprio.errors import ArgumentError
from celery_dynprio.lab.comparison import Measure

#: What may be left out, as it tells nothing apart.
_FILLERS: Final = frozenset({"wait", "started", "of"})

_SEPARATORS: Final = re.compile(r"[\s,()]+")


def measure_named(option: str, text: str, measures: Sequence[Measure]) -> Measure:
    """The measure whose title has all words of the text, and no others if there is such a one.

    The order of words and small words do not matter, and of a task's name its end will do: "checkout p95" is "wait of
    shop.tasks.checkout, p95". Raises :class:`~celery_dynprio.errors.ArgumentError`, with the name of the option, if no
    measure or more than one is meant.
    """
    wanted = _words(text)
    found = [each for each in measures if wanted and _fits(wanted, _words(each.title))]
    exact = [each for each in found if len(_words(each.title)) == len(wanted)]
    if len(exact or found) == 1:
        return (exact or found)[0]
    meant = "; ".join(each.title for each in exact or found or measures)
    raise ArgumentError(option, text, f"{'which of these' if found else 'there is no such measure, but'}: {meant}")


def _words(text: str) -> list[str]:
    words = [each for each in _SEPARATORS.split(text.lower()) if each]
    return [each for each in words if each not in _FILLERS] or words


def _fits(wanted: Sequence[str], words: Sequence[str]) -> bool:
    return all(any(word == each or word.endswith(f".{each}") for word in words) for each in wanted)
