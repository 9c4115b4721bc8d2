"""What workers learn from runs while a replay goes on: production's own decay, by the clock of the replay."""

from __future__ import annotations

from celery_dynprio.lab.jobs import Job
from celery_dynprio.models import Run
from celery_dynprio.ports.stores import UsageFigures
from celery_dynprio.stores.memory import MemoryUsage


class Learning:
    """Learned runtimes and use; ``half_life`` is in seconds."""

    def __init__(self, half_life: float = 600.0) -> None:
        self._now = 0.0
        #: Production's store.
        self.usage = MemoryUsage(half_life, lambda: self._now)

    def add(self, job: Job, seconds: float, now: float) -> None:
        """Learn from a run that ended ``now``."""
        self._now = now
        self.usage.add([Run(job.task.name, job.task.key or "", seconds)])

    def read(self, now: float) -> UsageFigures:
        """What is known ``now``."""
        return self.usage.read(now)
