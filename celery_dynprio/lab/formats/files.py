"""Opening text files that may be compressed, and refusing a line in words."""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from celery_dynprio.errors import RecordingError


@contextmanager
def reading(path: Path) -> Iterator[IO[str]]:
    """Open a text file, compressed if its name ends in ``.gz``.

    Raises :class:`~celery_dynprio.errors.RecordingError`.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            yield file
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as exc:
        raise RecordingError(path, f"cannot be read: {exc}") from exc


@contextmanager
def writing(path: Path) -> Iterator[IO[str]]:
    """Open a text file to be written, compressed if its name ends in ``.gz``.

    The same text gives the same bytes: the compressed file carries neither its name nor the time. Raises
    :class:`~celery_dynprio.errors.RecordingError`.
    """
    try:
        if path.suffix != ".gz":
            with path.open("w", encoding="utf-8") as file:
                yield file
            return
        with (
            path.open("wb") as raw,
            gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
            io.TextIOWrapper(packed, encoding="utf-8") as file,
        ):
            yield file
    except OSError as exc:
        raise RecordingError(path, f"cannot be written: {exc.strerror or exc}") from exc


def rows(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a CSV file whose header has the ``needed`` columns, each with the number of its line."""
    with reading(path) as file:
        table = csv.DictReader(file, restval="")
        missing = [column for column in needed if column not in (table.fieldnames or ())]
        if missing:
            raise RecordingError(path, f"has no column {missing[0]!r}", 1)
        for row in table:
            yield table.line_num, row


def number(value: str) -> float:
    """The finite number in a column; raises ValueError."""
    found = float(value)
    if not math.isfinite(found):
        raise ValueError(f"{value!r} is not a finite number")
    return found
