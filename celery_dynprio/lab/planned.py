"""A policy as production carries it out: its levels, its tick, and producers that know little."""

from __future__ import annotations

from celery_dynprio.brokers.memory import MemoryBacklog, MemoryLease, MemoryLeases
from celery_dynprio.engine.planner import Planner
from celery_dynprio.engine.tick import Reprioritizer
from celery_dynprio.lab.jobs import Job
from celery_dynprio.lab.learning import Learning
from celery_dynprio.models import Move, Outcome
from celery_dynprio.policies import Policy
from celery_dynprio.producer.placement import Placement


class _Backlog(MemoryBacklog):
    """A backlog in which a move costs what it costs at a broker."""

    def __init__(self, levels: int, leases: MemoryLeases, move_seconds: float) -> None:
        super().__init__("lab", levels, leases)
        self._move_seconds = move_seconds

    def cost(self, move: Move) -> float:  # noqa: ARG002 - each costs the same
        """Seconds of the broker's time."""
        return self._move_seconds


class Planned:
    """One policy with the parts of production.

    ``placement`` is that of the producers, and tells the levels. ``window``, ``hysteresis`` and ``budget`` are as the
    settings of these names; ``move_seconds`` is the broker's time that a move costs.
    """

    def __init__(
        self,
        policy: Policy,
        placement: Placement,
        learning: Learning,
        *,
        window: int = 10_000,
        hysteresis: float = 0.25,
        budget: float = 0.2,
        move_seconds: float = 80e-6,
    ) -> None:
        self.moves, self.broker_seconds = 0, 0.0
        self._placement, self._learning = placement, learning
        levels = len(placement.scale.levels)
        self._move_seconds = move_seconds
        self._now = 0.0
        leases = MemoryLeases(lambda: self._now)
        self._backlog = _Backlog(levels, leases, move_seconds)
        self._reprioritizer = Reprioritizer(
            self._backlog,
            MemoryLease(leases, "lab"),
            Planner(levels, window, hysteresis),
            policy,
            learning.usage,
            lambda: False,
            budget,
            window,
            clock=lambda: self._now,
        )
        self._jobs: dict[str, Job] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def publish(self, job: Job, now: float) -> None:
        """Put it at the level that its producer would choose."""
        self._jobs[job.pending.id] = job
        self._backlog.publish(job.pending, self._level(job, now))

    def take(self, now: float) -> Job | None:  # noqa: ARG002 - the levels decide
        """The next of the first level that is not empty."""
        task = self._backlog.consume()
        return None if task is None else self._jobs.pop(task.id)

    def give_back(self, job: Job) -> None:
        """Put it at the front of the level that its producer would choose, as kombu restores a message."""
        self._jobs[job.pending.id] = job
        level = self._level(job, job.pending.published)
        self._backlog.publish(job.pending, level)
        self._backlog.apply([Move(job.pending, level, level, 0.0, "restored", first=True)])

    def tick(self, now: float) -> None:
        """Read, score, plan, move."""
        self._now = now
        report = self._reprioritizer.tick()
        moved = report.outcomes.count(Outcome.MOVED) + report.spilled
        self.moves += moved
        self.broker_seconds += moved * self._move_seconds

    def ended(self, job: Job, seconds: float, now: float) -> None:
        """Learn from a run."""
        self._learning.add(job, seconds, now)

    def _level(self, job: Job, now: float) -> int:
        task = job.pending
        header = {"at": now, "w": task.weight, "due": task.deadline, "key": task.key, "n": task.dependents}
        return self._placement.scale.level_of(self._placement.priority("", task.name, header | {"pin": task.pinned}))
