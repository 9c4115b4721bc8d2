"""The files of one recording: the one that is written, and those that were put aside when it was full.

``recording.jsonl.gz`` is the present one. One that was put aside carries the time of that in its name,
``recording.20260131-235959-000.jsonl.gz``, so that names sort as the files came about, the present one last.
"""

from __future__ import annotations

import fcntl
import gzip
import os
import re
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

from celery_dynprio.errors import RecordingError

_NAME: Final = re.compile(r"(?P<base>.+?)(?P<time>\.\d{8}-\d{6}-\d{3})?(?P<suffix>\.jsonl(?:\.gz)?)")


def parts_of(path: Path) -> list[Path]:
    """Return all files of a recording, the oldest first: of its present file, or of the folder that it has for itself.

    A file that was put aside, or is no recording of this kind, is all by itself. Raises
    :class:`~celery_dynprio.errors.RecordingError` if a folder holds no recording, or several.
    """
    folder = path if path.is_dir() else path.parent
    found: dict[str, list[Path]] = {}
    for each in sorted(folder.iterdir()) if folder.is_dir() else ():
        if each.is_file() and (name := _NAME.fullmatch(each.name)) is not None:
            found.setdefault(name["base"] + name["suffix"], []).append(each)
    if not path.is_dir():
        return found.get(path.name, [path])
    if len(found) != 1:
        several = f"holds several recordings: name one of {', '.join(sorted(found))}"
        raise RecordingError(path, several if found else "holds no recording, no file that ends in .jsonl or .jsonl.gz")
    return next(iter(found.values()))


class Parts:
    """Writes the files of one recording; only one process at a time can.

    The present file is put aside when it has ``size`` bytes or more, and of all files at most ``files`` are kept.
    ``header`` returns the first line of each file; ``clock`` gives Unix seconds. What an earlier process wrote stays
    as it is, put aside. Raises :class:`~celery_dynprio.errors.RecordingError` if the file cannot be opened, or another
    process writes it.
    """

    def __init__(
        self, path: Path, header: Callable[[], str], clock: Callable[[], float], *, size: int, files: int
    ) -> None:
        self._path, self._header, self._clock = path, header, clock
        self._size, self._files = size, files
        self._lines: list[str] = []
        self._file = self._open()
        #: Lines that could not be written.
        self.dropped = 0

    def write(self, line: str) -> None:
        """Write a line with the next :meth:`flush`."""
        self._lines.append(line)

    def flush(self) -> None:
        """Write what waits, as one complete member of a compressed file: whatever happens next, it can be read.

        What cannot be written, as on a disk that is full, is dropped; raises OSError then.
        """
        lines, self._lines = self._lines, []
        try:
            if not self._is_there():
                self._reopen()
            if lines and self._written >= self._size:
                self._put_aside()
            if lines or not self._written:
                self._append(lines)
        except OSError:
            self.dropped += len(lines)
            raise

    def close(self) -> None:
        """Write what waits, and close the file."""
        try:
            self.flush()
        finally:
            os.close(self._file)

    def _is_there(self) -> bool:
        """Whether the file has its name still, or somebody moved or deleted it."""
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._file))
        except FileNotFoundError:
            return False

    @property
    def _written(self) -> int:
        return os.fstat(self._file).st_size

    def _append(self, lines: list[str]) -> None:
        before = self._written
        if not before:
            lines = [self._header(), *lines]
        data = "".join(f"{line}\n" for line in lines).encode()
        if self._path.suffix == ".gz":
            data = gzip.compress(data, mtime=0)
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError:
            os.ftruncate(self._file, before)
            raise

    def _open(self) -> int:
        try:
            file = self._lock()
            if os.fstat(file).st_size:
                self._rename(os.fstat(file).st_mtime)
                os.close(file)
                file = self._lock()
            self._delete_oldest()
        except BlockingIOError as exc:
            raise RecordingError(self._path, "another process records to this file") from exc
        except OSError as exc:
            raise RecordingError(self._path, f"cannot be written: {exc.strerror or exc}") from exc
        return file

    def _lock(self) -> int:
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            raise
        return file

    def _put_aside(self) -> None:
        self._rename(self._clock())
        self._reopen()
        self._delete_oldest()

    def _delete_oldest(self) -> None:
        for each in parts_of(self._path)[: -self._files]:
            each.unlink(missing_ok=True)

    def _reopen(self) -> None:
        file = self._lock()
        os.close(self._file)
        self._file = file

    def _rename(self, at: float) -> None:
        """Put the file aside; later files have later names, whatever the clock does."""
        known = _NAME.fullmatch(self._path.name)
        base, suffix = (known["base"], known["suffix"]) if known else (self._path.stem, self._path.suffix)
        names = [_NAME.fullmatch(each.name) for each in parts_of(self._path)]
        last = max((_milliseconds(name["time"]) for name in names if name and name["time"]), default=0)
        number = max(int(at * 1000), last + 1)
        moment = datetime.fromtimestamp(number // 1000, timezone.utc)
        self._path.rename(self._path.with_name(f"{base}.{moment:%Y%m%d-%H%M%S}-{number % 1000:03}{suffix}"))


def _milliseconds(time: str) -> int:
    """The time in a name; 0 if it is none."""
    try:
        moment = datetime.strptime(time[:16], ".%Y%m%d-%H%M%S").replace(tzinfo=timezone.utc)
    except ValueError:
        return 0
    return int(moment.timestamp()) * 1000 + int(time[17:20])
