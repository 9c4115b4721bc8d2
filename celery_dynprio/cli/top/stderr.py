"""Keeps what others write from the screen of ``dynprio top``: logged warnings, a policy's prints."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from tempfile import TemporaryFile
from typing import IO, Final

#: Seconds for which a line is news.
NEWS: Final = 10.0

#: Bytes at the end that are looked at, and the most lines of them that are told afterwards.
_END: Final = 4000
_LINES: Final = 5


class Written:
    """What was written while the screen was shown."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def news(self) -> str:
        """The last line, if it is not older than :data:`NEWS`; else ""."""
        recent = time.time() - os.fstat(self._file.fileno()).st_mtime <= NEWS
        return next(reversed(self.lines()), "") if recent else ""

    def lines(self) -> list[str]:
        """The last lines, each once."""
        number = self._file.fileno()
        end = os.pread(number, _END, max(os.fstat(number).st_size - _END, 0))
        return list(dict.fromkeys(end.decode(errors="replace").splitlines()))[-_LINES:]


@contextmanager
def aside() -> Iterator[Written]:
    """Send stderr, and what is printed, to a file; tell its last lines in the end.

    By file descriptor, because handlers of the user's logging hold the stream itself. A stderr that is no terminal
    spoils no screen, and stays where the operator sent it.
    """
    with TemporaryFile() as file:
        written = Written(file)
        if not sys.stderr.isatty():
            with redirect_stdout(sys.stderr):
                yield written
            return
        number = sys.stderr.fileno()
        kept = os.dup(number)
        os.dup2(file.fileno(), number)
        try:
            with redirect_stdout(sys.stderr):
                yield written
        finally:
            sys.stderr.flush()
            os.dup2(kept, number)
            os.close(kept)
            for line in written.lines():
                sys.stderr.write(f"{line}\n")
