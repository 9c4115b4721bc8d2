"""What became of each task in a replay, in columns: some 50 bytes a task, however long the recording is."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from celery_dynprio.lab.jobs import Job


def _doubles() -> array[float]:
    return array("d")


def _indices() -> array[int]:
    return array("L")


@dataclass(slots=True)
class Record:
    """One row for each task that ended, in the order in which they ended; all columns have the same length."""

    #: Unix seconds at which it was published; seconds that it waited in all tries, and that its tries ran.
    at: array[float] = field(default_factory=_doubles)
    wait: array[float] = field(default_factory=_doubles)
    run: array[float] = field(default_factory=_doubles)
    weight: array[float] = field(default_factory=_doubles)
    #: Seconds after its deadline at which it first started, negative if before it; NaN without a deadline.
    late: array[float] = field(default_factory=_doubles)
    #: Where its class and its key are in the lists below.
    group: array[int] = field(default_factory=_indices)
    owner: array[int] = field(default_factory=_indices)
    groups: dict[str, int] = field(default_factory=dict)
    owners: dict[str, int] = field(default_factory=dict)

    #: Of the whole replay: moves and the broker's seconds for them; slot-seconds in which a slot was idle while tasks
    #: waited, was busy, and there were at all; tasks that never ended, because no worker was left.
    moves: int = 0
    broker_seconds: float = 0.0
    idle: float = 0.0
    busy: float = 0.0
    offered: float = 0.0
    unfinished: int = 0
    #: How long the replay took, by its own clock.
    seconds: float = 0.0
    #: The mean number of tasks that waited, in time.
    pending: float = 0.0
    ticks: int = 0

    def __len__(self) -> int:
        return len(self.at)

    def add(self, job: Job, group: str) -> None:
        """Write down a task that ended."""
        task = job.task
        self.at.append(task.at)
        self.wait.append(job.waited)
        self.run.append(task.work)
        self.weight.append(task.weight)
        first = (task.eta or 0.0) + (job.first_wait or 0.0)
        self.late.append(float("nan") if task.deadline is None else first - task.deadline)
        self.group.append(self.groups.setdefault(group, len(self.groups)))
        self.owner.append(self.owners.setdefault(task.key or "", len(self.owners)))
