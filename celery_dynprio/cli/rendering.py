"""How all commands show places, times and tables. Pure, but for what prints.

What a message says is hostile until it is cleaned: :func:`table` cleans each cell, JSON escapes what is not ASCII.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import click
from wcwidth import wcswidth

from celery_dynprio.message import MAX_ID
from celery_dynprio.untrusted import clean

#: What is shown for a value that there is none of, or that is not known.
NOTHING: Final = "-"

#: What is shown for the key of tasks that have none.
NO_KEY: Final = "(no key)"

GAP: Final = "  "


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    title: str
    #: Numbers are set to the right.
    right: bool = False
    #: The fewest characters to which it may be cut in a terminal that is too narrow; None if it is never cut.
    least: int | None = None
    #: Whether the end is kept when it is cut: of a task's name it says the most.
    keep_end: bool = False
    #: Whether it is left out where the lines would be too long with all columns at their least.
    optional: bool = False


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None = None) -> Iterator[str]:
    """The lines of a table, its titles first; ``width`` is that of the terminal in characters, None for no bound.

    Columns are cut from the left to the right, each to its least width, until the lines fit; where that is not enough,
    optional ones are left out.
    """
    if width is not None:
        columns, rows = _without_optional(columns, rows, width)
    cells = [[column.title for column in columns], *([clean(cell, MAX_ID) for cell in row] for row in rows)]
    widths = [max(wide(row[index]) for row in cells) for index in range(len(columns))]
    if width is not None:
        widths = _fitted(columns, widths, width)
    for row in cells:
        shown = [
            pad(cut(cell, size, keep_end=column.keep_end), size, right=column.right)
            for cell, size, column in zip(row, widths, columns, strict=True)
        ]
        line = GAP.join(shown).rstrip()
        yield line if width is None else cut(line, width)


def wide(text: str) -> int:
    """How many cells of a terminal a printable text fills: East Asian wide characters two, combining accents none."""
    return len(text) if text.isascii() else wcswidth(text)


def cut(text: str, size: int, *, keep_end: bool = False) -> str:
    """A text that fills at most so many cells; "…" is where it was cut."""
    if wide(text) <= size:
        return text
    if size < 1:
        return ""
    kept = text
    while wide(kept) >= size:
        excess = max((wide(kept) - size) // 2, 1)  # no character is wider than two cells
        kept = kept[excess:] if keep_end else kept[:-excess]
    return f"…{kept}" if keep_end else f"{kept}…"


def pad(text: str, size: int, *, right: bool = False) -> str:
    """A text that fills at least so many cells."""
    space = " " * (size - wide(text))
    return space + text if right else text + space


def terminal_width() -> int | None:
    """The width in characters of the terminal that this prints to; None if that is a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def print_json(value: Mapping[str, Any]) -> None:
    """Print what a command's ``--json`` shows."""
    click.echo(json.dumps(value, indent=2))


def seconds(value: float | None) -> str:
    """Seconds in a table; tenths only where they matter."""
    return NOTHING if value is None else f"{value:.{1 if abs(value) < 1000 else 0}f}"  # noqa: PLR2004 - four digits


def seconds_with_unit(value: float | None) -> str:
    """Seconds in a sentence."""
    return NOTHING if value is None else f"{value:,.1f} s"


def counted(count: int, noun: str) -> str:
    """A number of things."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def summed(counts: Mapping[Any, int]) -> str:
    """Several counts in one line: "P0 3, parked 12"."""
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def missed_line(count: int) -> str:
    """Return the line for tasks that may have been passed over."""
    return f"Up to {counted(count, 'more task')} may match: they were moved during the search. Run it again to be sure."


def _without_optional(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int
) -> tuple[Sequence[Column], Sequence[Sequence[str]]]:
    """The table without as many of its optional columns, the last first, as are too much for this width."""
    for index in reversed(range(len(columns))):
        longest = [max(wide(cell) for cell in cells) for cells in zip(*rows, strict=True)] or [0] * len(columns)
        least = [
            max(len(each.title), size if each.least is None else min(size, each.least))
            for each, size in zip(columns, longest, strict=True)
        ]
        if sum(least) + len(GAP) * (len(columns) - 1) <= width:
            break
        if columns[index].optional:
            columns = [*columns[:index], *columns[index + 1 :]]
            rows = [[*row[:index], *row[index + 1 :]] for row in rows]
    return columns, rows


def _fitted(columns: Sequence[Column], widths: Sequence[int], width: int) -> list[int]:
    excess = sum(widths) + len(GAP) * (len(widths) - 1) - width
    fitted = list(widths)
    for index, column in enumerate(columns):
        if column.least is not None and excess > 0:
            cut = min(excess, max(fitted[index] - max(column.least, len(column.title)), 0))
            fitted[index] -= cut
            excess -= cut
    return fitted
