"""A task of a recording on its way through a replay."""

from __future__ import annotations

from dataclasses import dataclass

from celery_dynprio.lab.recording import FailedTry, Task
from celery_dynprio.models import PendingTask


@dataclass(slots=True, eq=False)
class Job:
    """One task; what changes is which of its tries it is at, and how long it has waited."""

    #: Its place in the recording, which orders what is otherwise equal.
    index: int
    task: Task
    #: As the policy sees it now.
    pending: PendingTask
    #: The tries that fail before the last one, those that are still to come.
    failing: tuple[FailedTry, ...]
    #: When it became ready to run, and the seconds that it waited before in all.
    ready: float
    waited: float = 0.0
    #: Seconds between publishing (or the ETA) and its first start.
    first_wait: float | None = None

    @property
    def run(self) -> float:
        """Seconds that the try takes that is next, or runs."""
        return self.failing[0].run if self.failing else self.task.run

    @classmethod
    def of(cls, index: int, task: Task, ready: float) -> Job:
        """A task that is published at ``ready``."""
        return cls(index, task, pending(index, task, ready), task.failed, ready)

    def start(self, now: float) -> None:
        """Count the wait that ends now."""
        self.waited += now - self.ready
        if self.first_wait is None:
            self.first_wait = now - self.ready

    def again(self, ready: float) -> None:
        """Go on to the next try, which is ready at ``ready``; it keeps its age, but for the pause."""
        since = self.pending.published + self.failing[0].pause
        self.failing, self.ready = self.failing[1:], ready
        self.pending = pending(self.index, self.task, since, scheduled=True)


def pending(index: int, task: Task, published: float, *, scheduled: bool = False) -> PendingTask:
    """What the message of a task tells; a retry keeps its deadline."""
    due = None if task.deadline is None else task.at + task.deadline
    return PendingTask(
        str(index),
        task.name,
        published,
        task.weight,
        due,
        task.key,
        task.dependents,
        task.pinned,
        scheduled=scheduled or task.eta is not None,
    )
