"""Ids that are given by their beginnings, as git takes those of its commits."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from itertools import pairwise
from typing import Final

from celery_dynprio.errors import ArgumentError

#: Candidates that an error lists.
MOST_LISTED: Final = 5

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def whole(text: str, *sources: Callable[[str], Collection[str]]) -> str:
    """The id that a text stands for: an id, or the beginning of only one.

    Each of ``sources`` gives the ids that it knows and that begin with a text; the first that knows any decides. A text
    that nobody knows is taken as an id. Raises :class:`~celery_dynprio.errors.ArgumentError` if several ids begin with
    it.
    """
    if not text:
        raise ArgumentError("id", text, "use an id, or the beginning of one")
    if _UUID.fullmatch(text):
        return text
    for source in sources:
        found = sorted(source(text))
        if text in found:
            return text
        if len(found) > 1:
            more = f" and {len(found) - MOST_LISTED:,} more" if len(found) > MOST_LISTED else ""
            raise ArgumentError("id", text, f"ambiguous; give more of it: {', '.join(found[:MOST_LISTED])}{more}")
        if found:
            return found[0]
    return text


def shortest(ids: Collection[str], least: int = 7) -> int:
    """How many characters tell these ids apart, at least ``least``."""
    ordered = sorted(set(ids))
    shared = max((_shared(one, other) for one, other in pairwise(ordered)), default=0)
    return max(least, shared + 1)


def _shared(one: str, other: str) -> int:
    return next(
        (index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
