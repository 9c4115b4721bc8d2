"""A long sequence in short pieces: so much for one call of a broker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of at most ``size`` items, in their order."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
