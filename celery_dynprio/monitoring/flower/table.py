"""One page of the table of pending tasks, filtered and sorted. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from celery_dynprio.engine.ordering import Turn
from celery_dynprio.errors import ArgumentError
from celery_dynprio.models import is_level, place_name

#: The most rows of one page.
MOST_ROWS: Final = 200

#: The longest text to search for (characters).
MOST_TEXT: Final = 200

#: The columns that the table can be sorted by; None comes last.
COLUMNS: Final[Mapping[str, Callable[[Turn], Any]]] = {
    "position": lambda turn: turn.position,
    "place": lambda turn: turn.place if is_level(turn.place) else 100 - turn.place,
    "score": lambda turn: turn.score,
    "waited": lambda turn: turn.waited,
    "deadline": lambda turn: turn.task.deadline,
    "key": lambda turn: turn.task.key,
    "start": lambda turn: turn.expected,
    "weight": lambda turn: turn.task.weight,
    "task": lambda turn: turn.task.name,
}


@dataclass(frozen=True, slots=True)
class TableQuery:
    """The part of the table to show. Raises :class:`~celery_dynprio.errors.ArgumentError` for one that cannot exist."""

    #: Searched for in the name, the id and the key, ignoring case.
    search: str = ""
    #: Such as "P3", "held" or "parked"; "" for all.
    place: str = ""
    #: A column; "" for the order in which the tasks are expected to run.
    sort: str = ""
    descending: bool = False
    start: int = 0
    count: int = 25

    def __post_init__(self) -> None:
        if self.sort and self.sort not in COLUMNS:
            raise ArgumentError("sort", self.sort, f"use one of {', '.join(COLUMNS)}")
        if not 1 <= self.count <= MOST_ROWS:
            raise ArgumentError("count", self.count, f"use 1 to {MOST_ROWS}")
        if self.start < 0:
            raise ArgumentError("start", self.start, "use 0 or above")
        if len(self.search) > MOST_TEXT:
            raise ArgumentError("search", self.search[:20], f"use {MOST_TEXT} characters at most")

    @property
    def end(self) -> int:
        """The number of tasks up to the end of the page."""
        return self.start + self.count

    @property
    def selective(self) -> bool:
        """Whether all tasks have to be read."""
        return bool(self.search or self.place or self.sort)

    def of(self, turns: Sequence[Turn]) -> tuple[Sequence[Turn], int]:
        """Return the page of these tasks, and how many match."""
        found = [turn for turn in turns if self._matches(turn)] if self.search or self.place else turns
        if self.sort:
            found = self._sorted(found)
        return found[self.start : self.end], len(found)

    def _matches(self, turn: Turn) -> bool:
        needle, task = self.search.lower(), turn.task
        return (not self.place or place_name(turn.place) == self.place) and (
            needle in task.name.lower() or needle in task.id.lower() or needle in (task.key or "").lower()
        )

    def _sorted(self, turns: Sequence[Turn]) -> list[Turn]:
        column = COLUMNS[self.sort]
        with_value = [turn for turn in turns if column(turn) is not None]
        with_value.sort(key=column, reverse=self.descending)
        return with_value + [turn for turn in turns if column(turn) is None]
