"""What workers learn from runs while a replay goes on: production's own decay, by the clock of the replay."""

from __future__ import annotations

import math
from collections.abc import Iterable

from celery_dynprio.engine.knowledge import Knowledge
from celery_dynprio.lab.jobs import Job
from celery_dynprio.models import Context, Run, RunningTask
from celery_dynprio.policies.decay import DecayedSums
from celery_dynprio.ports.stores import Usage, UsageFigures
from celery_dynprio.runtimes import Sums
from celery_dynprio.stores.memory import MemoryRunning, MemoryUsage


class Learning:
    """Learned runtimes and use, and what runs; ``half_life`` is in seconds."""

    def __init__(self, half_life: float = 600.0) -> None:
        self._now = 0.0
        #: Production's stores. No worker of a replay dies with its runs.
        self.usage: Usage = MemoryUsage(half_life, lambda: self._now)
        self.running = MemoryRunning(lambda: self._now, math.inf)

    def start(self, job: Job, now: float) -> None:
        """Take in a run that starts ``now``."""
        self._now = now
        self.running.start([RunningTask(job.pending.id, job.task.name, job.task.key or "", now)], now)

    def add(self, job: Job, seconds: float, now: float) -> None:
        """Learn from a run that ended ``now``."""
        self._now = now
        self.usage.add([Run(job.task.name, job.task.key or "", seconds)])
        self.running.end([job.pending.id])

    def context(self, now: float) -> Context:
        """What is known ``now``."""
        return Knowledge(self.usage, self.running).context(now)


class Continued(Learning):
    """Use that goes on from what is known at one moment; the runtimes stay what they were by then."""

    def __init__(self, known: Context, half_life: float = 600.0) -> None:
        super().__init__(half_life)
        self._now = known.now
        self.usage = _ContinuedUsage(self, known, half_life)

    @property
    def now(self) -> float:
        """When a run ended last."""
        return self._now


class _ContinuedUsage:
    def __init__(self, learning: Continued, known: Context, half_life: float) -> None:
        self._learning, self._half_life = learning, half_life
        self._runtimes = known.runtimes
        self._use = {key: _used(seconds, known.now) for key, seconds in known.use.items()}

    def add(self, runs: Iterable[Run]) -> None:
        now = self._learning.now
        for run in runs:
            used = self._use.get(run.key, _used(0.0, now))
            self._use[run.key] = used.plus(run.seconds, now, self._half_life)

    def read(self, now: float) -> UsageFigures:
        use = {key: used.seconds_at(now, self._half_life) for key, used in self._use.items()}
        return UsageFigures(self._runtimes, use)

    def close(self) -> None:
        """Nothing to give back."""


def _used(seconds: float, now: float) -> DecayedSums:
    return DecayedSums(Sums(1.0, seconds, 0.0), now)
