"""The lab's own format: JSON Lines, compressed if the file's name ends in ``.gz``.

The first line is ``{"format": "celery-dynprio-recording", "version": 1}``. Each other line is an object: with ``name``
it is a task (fields of :class:`~celery_dynprio.lab.recording.Task`, those at their default left out; ``failed`` is a
list of ``[run, pause]``), with ``slots`` it says how many slots a worker has from then on. Lines of another kind are
passed over. Lines may be out of order by as much as :data:`REORDER` lines, as whoever records a task writes it when it
ended.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from celery_dynprio.errors import RecordingError
from celery_dynprio.lab.formats.files import reading, writing
from celery_dynprio.lab.recording import ANY_WORKER, Entry, FailedTry, Slots, Task
from celery_dynprio.policies.base import is_number

FORMAT: Final = "celery-dynprio-recording"
VERSION: Final = 1

#: So many lines are kept to be put in order.
REORDER: Final = 10_000


def read(path: Path) -> Iterator[Entry]:
    """Yield what is in a file, ordered by time; raises :class:`~celery_dynprio.errors.RecordingError`."""
    waiting: list[tuple[float, int, Entry]] = []
    reached = float("-inf")
    for line, entry in _entries(path):
        if entry.at < reached:
            raise RecordingError(path, f"is more than {REORDER:,} lines out of order; sort it by 'at'", line)
        heapq.heappush(waiting, (entry.at, line, entry))
        if len(waiting) > REORDER:
            reached, _, first = heapq.heappop(waiting)
            yield first
    while waiting:
        yield heapq.heappop(waiting)[2]


def write(path: Path, entries: Iterable[Entry]) -> None:
    """Write a recording; raises :class:`~celery_dynprio.errors.RecordingError`."""
    with writing(path) as file:
        file.write(json.dumps({"format": FORMAT, "version": VERSION}) + "\n")
        for entry in entries:
            file.write(json.dumps(as_object(entry), separators=(",", ":")) + "\n")


def as_object(entry: Entry) -> dict[str, Any]:
    """What is written of an entry."""
    if isinstance(entry, Slots):
        return entry._asdict()
    defaults = Task._field_defaults
    return {
        field: value for field, value in entry._asdict().items() if field not in defaults or value != defaults[field]
    }


def _entries(path: Path) -> Iterator[tuple[int, Entry]]:
    with reading(path) as lines:
        for line, text in enumerate(lines, 1):
            try:
                fields = _object(text)
                if line == 1:
                    _check_header(fields)
                elif "name" in fields:
                    yield line, _task(fields)
                elif "slots" in fields:
                    yield line, Slots(_number(fields, "at"), str(fields.get("worker", ANY_WORKER)), _count(fields))
            except (ValueError, TypeError, KeyError) as exc:
                raise RecordingError(path, f"is not as it should be: {exc!r}", line) from exc


def _object(text: str) -> dict[str, Any]:
    fields = json.loads(text)
    if not isinstance(fields, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - as all that is wrong in a line
    return fields


def _check_header(fields: Mapping[str, Any]) -> None:
    if fields.get("format") != FORMAT:
        raise ValueError(f"the first line must say format {FORMAT!r}")
    if fields.get("version") != VERSION:
        raise ValueError(
            f"version {fields.get('version')!r} is not {VERSION}: another version of celery-dynprio wrote it"
        )


def _task(fields: Mapping[str, Any]) -> Task:
    known = {field: fields[field] for field in Task._fields if fields.get(field) is not None}
    known["at"], known["run"] = _number(fields, "at"), _number(fields, "run")
    for field in ("weight", "deadline", "eta", "waited"):
        if field in known:
            known[field] = _number(fields, field)
    for field in ("dependents", "pinned", "level", "start_level"):
        if field in known:
            known[field] = int(known[field])
    for field in ("name", "key", "outcome", "worker"):
        if field in known:
            known[field] = str(known[field])
    known["failed"] = tuple(FailedTry(float(run), float(pause)) for run, pause in known.get("failed", ()))
    if known["run"] < 0 or any(each.run < 0 or each.pause < 0 for each in known["failed"]):
        raise ValueError("run times and pauses must not be negative")
    return Task(**known)


def _number(fields: Mapping[str, Any], field: str) -> float:
    value = fields[field]
    if not is_number(value):
        raise ValueError(f"{field} is {value!r}, not a finite number")
    return float(value)


def _count(fields: Mapping[str, Any]) -> int:
    slots = fields["slots"]
    if type(slots) is not int or slots < 0:
        raise ValueError(f"slots is {slots!r}, not a number of slots")
    return slots
