"""A policy as production carries it out: its levels, its tick, and producers that know what the leader told lately."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Final

from celery_dynprio.brokers.memory import MemoryBacklog, MemoryLeader, MemoryLease
from celery_dynprio.engine.guiding import Guiding
from celery_dynprio.engine.planner import Planner
from celery_dynprio.engine.tick import Reprioritizer
from celery_dynprio.lab.jobs import Job
from celery_dynprio.lab.learning import Learning
from celery_dynprio.models import Move, Outcome, Place, Snapshot, is_level
from celery_dynprio.policies import Policy
from celery_dynprio.ports.guidance import Guidance
from celery_dynprio.producer.guide import READ_INTERVAL, Guide, Known
from celery_dynprio.producer.placement import Placement
from celery_dynprio.stores.memory import MemoryGuidance

#: The one queue.
QUEUE: Final = "lab"


class _Backlog(MemoryBacklog):
    """A backlog in which a move costs what it costs at a broker."""

    def __init__(self, levels: int, leases: MemoryLeader, move_seconds: float) -> None:
        super().__init__(QUEUE, levels, leases)
        self._move_seconds = move_seconds

    def cost(self, move: Move) -> float:  # noqa: ARG002 - each costs the same
        """Seconds of the broker's time."""
        return self._move_seconds


class _Guide:
    """Knows what the leader told when it was last asked, which is done as often as a producer in production does."""

    def __init__(self, store: MemoryGuidance, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._known = Known(clock)
        self._next = -math.inf

    def of(self, queue: str) -> Guidance | None:
        """Return what is known."""
        now = self._clock()
        if now >= self._next:
            self._known.take(self._store.read([queue]))
            self._next = now + READ_INTERVAL
        return self._known.of(queue)

    def wanted(self, queue: str) -> None:
        """Do nothing: it is asked as often as anything is published."""


class Planned:
    """One policy with the parts of production.

    ``producers`` makes the placement of the producers, of what they know; it tells the levels, too. ``window``,
    ``hysteresis`` and ``budget`` are as the settings of these names; ``move_seconds`` is the broker's time that a move
    costs.
    """

    def __init__(
        self,
        policy: Policy,
        producers: Callable[[Guide], Placement],
        learning: Learning,
        *,
        window: int = 10_000,
        hysteresis: float = 1.0,
        budget: float = 0.2,
        move_seconds: float = 80e-6,
    ) -> None:
        self.moves, self.broker_seconds = 0, 0.0
        self._learning = learning
        self._move_seconds = move_seconds
        self._now = 0.0
        guidance = MemoryGuidance(math.inf, lambda: self._now)  # a leader in production renews it, idle or not
        self._placement = producers(_Guide(guidance, lambda: self._now))
        levels = len(self._placement.scale.levels)
        leases = MemoryLeader(lambda: self._now)
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
            guiding=Guiding(guidance, QUEUE),
            running=learning.running,
            clock=lambda: self._now,
        )
        self._jobs: dict[str, Job] = {}
        self._is_new = True

    def __len__(self) -> int:
        return len(self._jobs)

    def publish(self, job: Job, now: float) -> None:
        """Put it at the level that its producer would choose."""
        self._now = now
        if self._is_new:  # in production the leader has ticked before, and its bands spread from there
            self._is_new = False
            self._reprioritizer.tick()
        self._jobs[job.pending.id] = job
        self._backlog.publish(job.pending, self._level(job, now))

    def load(self, jobs: Iterable[tuple[Job, Place]]) -> None:
        """Put jobs where they wait already, the next of each level first."""
        self._is_new = False
        moves = []
        for job, place in jobs:
            self._jobs[job.pending.id] = job
            if is_level(place):
                self._backlog.publish(job.pending, place)
            else:
                self._backlog.publish(job.pending, 0)
                moves.append(Move(job.pending, 0, place, 0.0, "loaded"))
        self._backlog.apply(moves)

    def waiting(self, now: float) -> Snapshot:
        """All that waits, where it is."""
        return self._backlog.read(now)

    def take(self, now: float) -> Job | None:  # noqa: ARG002 - the levels decide
        """The next of the first level that is not empty."""
        task = self._backlog.consume()
        return None if task is None else self._jobs.pop(task.id)

    def give_back(self, job: Job) -> None:
        """Put it at the front of the level that its producer would choose, as kombu restores a message."""
        self._jobs[job.pending.id] = job
        level = self._level(job, job.ready)
        self._backlog.publish(job.pending, level)
        self._backlog.apply([Move(job.pending, level, level, 0.0, "restored", first=True)])

    def tick(self, now: float) -> None:
        """Read, score, plan, move."""
        self._now = now
        report = self._reprioritizer.tick()
        moved = report.outcomes.count(Outcome.MOVED) + report.spilled
        self.moves += moved
        self.broker_seconds += moved * self._move_seconds

    def started(self, job: Job, now: float) -> None:
        """Note what runs."""
        self._learning.start(job, now)

    def ended(self, job: Job, seconds: float, now: float) -> None:
        """Learn from a run."""
        self._learning.add(job, seconds, now)

    def _level(self, job: Job, now: float) -> int:
        task = job.pending
        header = {"at": now, "w": task.weight, "due": task.deadline, "key": task.key, "n": task.dependents}
        header |= {"pin": task.pinned, "first": min(task.published, now)}
        priority = self._placement.priority(QUEUE, "", task.name, header)
        return self._placement.scale.level_of(priority)
