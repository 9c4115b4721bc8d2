"""The lab's own format: JSON Lines, compressed if the file's name ends in ``.gz``.

The first line is ``{"format": "celery-dynprio-recording", "version": 1}``, perhaps with
:class:`~celery_dynprio.lab.conditions.Conditions` and the ``workers`` that there were. Each other line is an object:
with ``name`` it is a task (fields of :class:`~celery_dynprio.lab.recording.Task`, those at their default left out;
``failed`` is a list of ``[run, pause]``), with ``slots`` it says how many slots a worker has from then on. Lines of
another kind are passed over.

Whoever records a task writes it when it ended, so lines may be out of order; what is out of order by more than
:data:`REORDER` lines is kept in memory. A recorder writes a line for each try: one whose ``outcome`` is "retry" is an
earlier try of the task with this ``id``. A file may end anywhere, because its recorder was killed.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

from celery_dynprio.errors import RecordingError
from celery_dynprio.lab.conditions import Conditions
from celery_dynprio.lab.formats.files import reading, writing
from celery_dynprio.lab.formats.parts import parts_of
from celery_dynprio.lab.recording import ANY_WORKER, Entry, FailedTry, Slots, Task
from celery_dynprio.policies.base import is_number

FORMAT: Final = "celery-dynprio-recording"
VERSION: Final = 1

#: How a try ended that is not the last one.
RETRY: Final = "retry"

#: So many lines are kept to be put in order.
REORDER: Final = 10_000

#: Seconds.
LONGEST_GAP: Final = 1.0

_at: Final = attrgetter("at")


class JsonLines:
    """A recording in all its files; each call reads it anew, ordered by time.

    Raises :class:`~celery_dynprio.errors.RecordingError`.
    """

    def __init__(self, path: Path) -> None:
        self._parts = parts_of(path)
        #: What is too late to be put in order on the way; None until it was read once.
        self._late: list[Entry] | None = None

    def __call__(self) -> Iterator[Entry]:
        """Yield what is in the files."""
        if self._late is None:
            late: list[Entry] = []
            tries: dict[str, list[Task]] = {}
            for _ in _in_order(_single(_entries(self._parts), tries), late):
                pass
            self._late = sorted([*late, *map(joined, tries.values())], key=_at)
        return heapq.merge(_in_order(_single(_entries(self._parts), {}), []), self._late, key=_at)

    @property
    def recorded(self) -> bool:
        """Whether a recorder wrote it, and no simulator."""
        return "policy" in _header(self._parts[0])

    def turnaround(self) -> float:
        """Return the mean seconds that a process needed between two runs while the second task waited already.

        0 if that cannot be told, as where processes run several tasks at once. A gap above :data:`LONGEST_GAP` is
        another thing: a worker that was stopped, a task that was held.
        """
        free: dict[tuple[str, str], float] = {}
        gaps: list[float] = []
        for part in self._parts:
            for line, fields in _objects(part):
                if "name" not in fields or fields.get("process") is None or fields.get("waited") is None:
                    continue
                task = _task_in(part, line, fields)
                started, slot = _ready(task) + (task.waited or 0.0), (task.worker or "", str(fields["process"]))
                gap = started - free.get(slot, float("inf"))
                if 0 <= gap <= LONGEST_GAP and _ready(task) <= free[slot]:
                    gaps.append(gap)
                free[slot] = started + task.run
        return sum(gaps) / len(gaps) if gaps else 0.0

    def conditions(self) -> Conditions | None:
        """Return under which conditions all of it was recorded; None if they are not known, or changed."""
        found = {json.dumps(_header(part), sort_keys=True): None for part in self._parts}
        known = [Conditions.read(json.loads(each)) for each in found]
        return known[0] if known and all(each == known[0] for each in known) else None


def read(path: Path) -> Iterator[Entry]:
    """Yield what is in a recording; see :class:`JsonLines`."""
    return JsonLines(path)()


def write(path: Path, entries: Iterable[Entry]) -> None:
    """Write a recording; raises :class:`~celery_dynprio.errors.RecordingError`."""
    with writing(path) as file:
        file.write(header() + "\n")
        for entry in entries:
            file.write(line_of(as_object(entry)) + "\n")


def header(**about: Any) -> str:
    """Return the first line of a file, with what else there is to say."""
    return json.dumps({"format": FORMAT, "version": VERSION, **about})


def line_of(fields: Mapping[str, Any]) -> str:
    """Return one line, without its end."""
    return json.dumps(fields, separators=(",", ":"))


def as_object(entry: Entry) -> dict[str, Any]:
    """What is written of an entry."""
    if isinstance(entry, Slots):
        return entry._asdict()
    defaults = Task._field_defaults
    return {
        field: value for field, value in entry._asdict().items() if field not in defaults or value != defaults[field]
    }


def joined(tries: Sequence[Task]) -> Task:
    """Return one task with these tries, the first one first; one that has not ended yet ended as far as is known."""
    first, last = tries[0], tries[-1]
    failed = tuple(
        FailedTry(one.run, max(_ready(other) - (_ready(one) + (one.waited or 0.0) + one.run), 0.0))
        for one, other in pairwise(tries)
    )
    waits = [each.waited for each in tries]
    waited = None if None in waits else sum(each for each in waits if each is not None)
    ended = {field: getattr(last, field) for field in ("run", "outcome", "worker", "start_level")}
    return first._replace(failed=failed, waited=waited, **ended)


def _ready(task: Task) -> float:
    return task.at + max(task.eta or 0.0, 0.0)


def _single(entries: Iterable[tuple[str, int, Entry]], tries: dict[str, list[Task]]) -> Iterator[Entry]:
    """Yield what is whole in one line; keep the tries of all other tasks by the task's id."""
    for task_id, attempt, entry in entries:
        if isinstance(entry, Task) and task_id and (attempt > 1 or entry.outcome == RETRY):
            tries.setdefault(task_id, []).append(entry)
        else:
            yield entry


def _in_order(entries: Iterable[Entry], late: list[Entry]) -> Iterator[Entry]:
    """Yield these ordered by time, but for those that are too late for that."""
    waiting: list[tuple[float, int, Entry]] = []
    reached = float("-inf")
    for number, entry in enumerate(entries):
        if entry.at < reached:
            late.append(entry)
            continue
        heapq.heappush(waiting, (entry.at, number, entry))
        if len(waiting) > REORDER:
            reached, _, first = heapq.heappop(waiting)
            yield first
    while waiting:
        yield heapq.heappop(waiting)[2]


def _entries(parts: Sequence[Path]) -> Iterator[tuple[str, int, Entry]]:
    """Yield the entries of all files in their order, each with the id of its task and the number of its try."""
    workers: dict[str, int] = {}
    for part in parts:
        for line, fields in _objects(part):
            try:
                if line == 1:
                    _check_header(fields)
                    for slots in _changes(fields, workers):
                        yield "", 0, slots
                elif "name" in fields:
                    yield str(fields.get("id", "")), int(fields.get("try", 1)), _task(fields)
                elif "slots" in fields:
                    slots = Slots(_number(fields, "at"), str(fields.get("worker", ANY_WORKER)), _count(fields["slots"]))
                    workers[slots.worker] = slots.slots
                    yield "", 0, slots
            except (ValueError, TypeError, KeyError) as exc:
                raise RecordingError(part, f"is not as it should be: {exc!r}", line) from exc


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with reading(path) as lines:
        for line, text in _lines(lines):
            try:
                fields = json.loads(text)
            except ValueError as exc:
                if text.endswith("\n"):
                    raise RecordingError(path, f"this is not JSON: {exc}", line) from exc
                return  # the recorder was killed
            if not isinstance(fields, dict):
                raise RecordingError(path, "this is not a JSON object", line)
            yield line, fields


def _lines(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    try:
        yield from enumerate(lines, 1)
    except EOFError:  # the recorder was killed
        return


def _header(path: Path) -> Mapping[str, Any]:
    fields = next((fields for _, fields in _objects(path)), {})
    return {name: value for name, value in fields.items() if name not in {"at", "workers"}}


def _check_header(fields: Mapping[str, Any]) -> None:
    if fields.get("format") != FORMAT:
        raise ValueError(f"the first line must say format {FORMAT!r}")
    if fields.get("version") != VERSION:
        raise ValueError(
            f"version {fields.get('version')!r} is not {VERSION}: another version of celery-dynprio wrote it"
        )


def _changes(header: Mapping[str, Any], before: dict[str, int]) -> Iterator[Slots]:
    """Yield what the header of a file says of workers, where it is news; an earlier recorder may have missed it."""
    if not isinstance(header.get("workers"), dict):
        return
    at, now = _number(header, "at"), {str(name): _count(slots) for name, slots in header["workers"].items()}
    for worker in [*now, *(worker for worker, slots in before.items() if slots and worker not in now)]:
        if now.get(worker, 0) != before.get(worker, 0):
            before[worker] = now.get(worker, 0)
            yield Slots(at, worker, before[worker])


def _task_in(part: Path, line: int, fields: Mapping[str, Any]) -> Task:
    try:
        return _task(fields)
    except (ValueError, TypeError, KeyError) as exc:
        raise RecordingError(part, f"is not as it should be: {exc!r}", line) from exc


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


def _count(slots: object) -> int:
    if type(slots) is not int or slots < 0:
        raise ValueError(f"slots is {slots!r}, not a number of slots")
    return slots
