"""The Standard Workload Format of the Parallel Workloads Archive (Chapin et al. 1999): one job a line, 18 columns.

Read are the columns 1 job number, 2 submit time (s), 3 wait time (s), 4 run time (s), 11 status, 12 user, 13 group,
14 executable and 15 queue; -1 means unknown. Lines that begin with ``;`` are comments, and ``; UnixStartTime: N`` says
when second 0 was. Jobs that never ran (no run time) are left out. Each job takes one slot, however many processors it
had. The name of a task is ``app-<executable>``, or ``queue-<queue>``, or ``job``.

https://www.cs.huji.ac.il/labs/parallel/workload/swf.html
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from celery_dynprio.errors import RecordingError
from celery_dynprio.lab.formats.files import number, reading, writing
from celery_dynprio.lab.recording import Entry, Slots, Task
from celery_dynprio.lab.users import Users

_COLUMNS: Final = 18
_WAIT, _RUN, _STATUS, _USER, _GROUP, _EXECUTABLE, _QUEUE = 2, 3, 10, 11, 12, 13, 14
_UNKNOWN: Final = "-1"
_OUTCOMES: Final = {"0": "failure", "5": "cancelled"}
_STATUSES: Final = {"success": 1, "failure": 0, "cancelled": 5}
_START: Final = "unixstarttime:"


def read(path: Path, users: Users, by: str = "user") -> Iterator[Task]:
    """Yield the jobs of a log; ``by`` is what becomes the key, "user" or "group".

    Raises :class:`~celery_dynprio.errors.RecordingError`, also where jobs are not ordered by submit time.
    """
    start, last = 0.0, 0.0
    with reading(path) as lines:
        for line, text in enumerate(lines, 1):
            if text.startswith(";"):
                comment = text.lstrip("; ").lower()
                start = number(comment.split()[1]) if comment.startswith(_START) else start
                continue
            if not text.strip():
                continue
            try:
                task = _task(text.split(), start, users, by)
            except ValueError as exc:
                raise RecordingError(path, f"is not a job in Standard Workload Format: {exc}", line) from exc
            if task is None:
                continue
            if task.at < last:
                raise RecordingError(path, "was submitted before the job of an earlier line; sort it by column 2", line)
            last = task.at
            yield task


def _task(columns: list[str], start: float, users: Users, by: str) -> Task | None:
    if len(columns) != _COLUMNS:
        raise ValueError(f"{len(columns)} columns instead of {_COLUMNS}")
    run, waited = number(columns[_RUN]), number(columns[_WAIT])
    if run < 0:
        return None
    user = columns[_GROUP if by == "group" else _USER]
    tier = users.tier(user)
    return Task(
        start + number(columns[1]),
        _name(columns),
        run,
        None if user == _UNKNOWN else users.key(user),
        tier.weight if tier else 1.0,
        tier.deadline if tier else None,
        outcome=_OUTCOMES.get(columns[_STATUS], "success"),
        waited=None if waited < 0 else waited,
    )


def _name(columns: list[str]) -> str:
    for column, kind in ((_EXECUTABLE, "app"), (_QUEUE, "queue")):
        if columns[column] != _UNKNOWN:
            return f"{kind}-{columns[column]}"
    return "job"


def write(path: Path, entries: Iterable[Entry]) -> None:
    """Write the tasks of a recording, so that other simulators can check ours. Keys and names become numbers.

    Weights, deadlines, ETAs and earlier tries have no column and are left out. Raises
    :class:`~celery_dynprio.errors.RecordingError`.
    """
    keys: dict[str | None, int] = {None: -1}
    names: dict[str, int] = {}
    tasks = (entry for entry in entries if not isinstance(entry, Slots))
    with writing(path) as file:
        start = 0.0
        for job, task in enumerate(tasks, 1):
            if job == 1:
                start = float(round(task.at))
                file.write(f"; Version: 2.2\n; UnixStartTime: {start:.0f}\n")
            columns = [_UNKNOWN] * _COLUMNS
            columns[:5] = [str(job), f"{task.at - start:.3f}", _written(task.waited), f"{task.work:.3f}", "1"]
            columns[_STATUS] = str(_STATUSES.get(task.outcome, -1))
            columns[_USER] = str(keys.setdefault(task.key, len(keys)))
            columns[_EXECUTABLE] = str(names.setdefault(task.name, len(names) + 1))
            file.write(" ".join(columns) + "\n")


def _written(waited: float | None) -> str:
    return _UNKNOWN if waited is None else f"{waited:.3f}"
