"""What the recorder's notes mean: waits by class, and whether each task ran exactly once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from example_project import celery, tasks

celery.app.set_default()  # the tasks need an app, or DynPrio warns

#: Seconds by which a class should have started, as its task declares.
DEADLINES = {task.__name__: task.dynprio["deadline"] for task in (tasks.checkout, tasks.invoice, tasks.notify)}


class Record:
    """The recorder's file, read as it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        #: By task id: when it was published (Unix seconds) and its class, and when it started, each time.
        self.sent: dict[str, tuple[float, str]] = {}
        self.started: dict[str, list[float]] = defaultdict(list)

    def catch_up(self) -> bool:
        """Read new lines; return whether there were any."""
        if not self._path.exists():
            return False
        with self._path.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        new = new[: new.rfind(b"\n") + 1]  # the last line may be half written
        self._read += len(new)
        for line in new.decode().splitlines():
            what, task_id, at, label = line.split("\t")
            if what == "sent":
                self.sent[task_id] = float(at), label
            else:
                self.started[task_id].append(float(at))
        return bool(new)


@dataclass(frozen=True)
class Waits:
    """How long the tasks of one class waited, in seconds."""

    tasks: int
    p50: float
    p95: float
    max: float
    #: Seconds within which they should have started, and the share that did; None for a class without a deadline.
    deadline: float | None
    in_time: float | None


@dataclass(frozen=True)
class Result:
    """One run of the load."""

    classes: dict[str, Waits]
    sent: int
    run: int
    lost: int
    run_twice: int
    #: Moves of pending tasks, as the reprioritizer reports them; None without one.
    moves: int | None
    #: From the first task that was published to the last that started.
    seconds: float

    @property
    def clean(self) -> bool:
        """Whether every task ran exactly once."""
        return not self.lost and not self.run_twice

    def data(self) -> dict[str, Any]:
        """The same for ``json``; seconds and shares are rounded."""
        return {name: _rounded(value) for name, value in asdict(self).items()}


def result(record: Record, expected: int, moves: int | None) -> Result:
    """Sum up a record; ``expected`` is how many tasks should have been published in all."""
    waits: dict[str, list[float]] = defaultdict(list)
    for task_id, (at, label) in record.sent.items():
        waits[label] += [max(0.0, start - at) for start in record.started.get(task_id, ())[:1]]
    order = [*DEADLINES, "report (others)", "report (flood)", "reindex"]
    times = Counter(map(len, record.started.values()))
    begin = min((at for at, _ in record.sent.values()), default=0.0)
    return Result(
        classes={label: _waits(sorted(waits[label]), DEADLINES.get(label)) for label in order if waits[label]},
        sent=len(record.sent),
        run=sum(times.values()),
        lost=expected - sum(times.values()),
        run_twice=sum(count for number, count in times.items() if number > 1),
        moves=moves,
        seconds=max((starts[-1] for starts in record.started.values()), default=begin) - begin,
    )


def _waits(waits: Sequence[float], deadline: float | None) -> Waits:
    in_time = None if deadline is None else sum(wait <= deadline for wait in waits) / len(waits)
    return Waits(len(waits), _quantile(waits, 0.5), _quantile(waits, 0.95), waits[-1], deadline, in_time)


def _quantile(ordered: Sequence[float], share: float) -> float:
    """The nearest rank: a wait that some task really had."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return round(value, 3) if isinstance(value, float) else value
