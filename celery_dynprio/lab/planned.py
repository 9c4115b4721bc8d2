"""A policy as production carries it out: levels, a planner that moves at each tick, and producers that know little."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, Protocol

from celery_dynprio.brokers.memory import MemoryBacklog
from celery_dynprio.engine.planner import Planner
from celery_dynprio.engine.scores import Scores
from celery_dynprio.lab.jobs import Job
from celery_dynprio.lab.learning import Learning
from celery_dynprio.levels import Bands, Scale
from celery_dynprio.models import Context, Move, Outcome, PendingTask, Place, Snapshot, is_level
from celery_dynprio.policies import Policy

#: A front may be this much deeper than the window before its newest tasks are parked in bulk, and so many windows of
#: them at once; as the reprioritizer does.
SLACK: Final = 1.2
SPILL_WINDOWS: Final = 2


class Placement(Protocol):
    """What gives tasks their first level in production's producers."""

    def priority(self, task_id: str, name: str, header: Mapping[str, Any]) -> int:
        """Return the broker's number for the level of a task with this header."""


class Planned:
    """One policy with the parts of production.

    ``placement`` gives what is published a number of ``scale``. ``window`` and ``hysteresis`` are the planner's, as
    is ``budget``: the seconds of broker time that one tick may spend on moves of ``move_seconds`` each.
    """

    def __init__(
        self,
        policy: Policy,
        placement: Placement,
        learning: Learning,
        *,
        scale: Scale,
        window: int = 10_000,
        hysteresis: float = 0.25,
        budget: float = 0.2,
        move_seconds: float = 80e-6,
        complain: Callable[[object], None] = lambda _: None,
    ) -> None:
        self.moves, self.broker_seconds = 0, 0.0
        self._placement, self._learning = placement, learning
        self._scores = Scores(policy, complain)
        self._scale, levels = scale, len(scale.levels)
        self._planner = Planner(levels, window, hysteresis)
        self._backlog = MemoryBacklog("lab", levels)
        self._budget, self._move_seconds = budget, move_seconds
        self._bands: Bands | None = None
        self._jobs: dict[str, Job] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def publish(self, job: Job, now: float) -> None:
        """Put it at the level that its producer would choose."""
        task = job.pending
        self._jobs[task.id] = job
        header = {"at": now, "w": task.weight, "due": task.deadline, "key": task.key, "n": task.dependents}
        number = self._placement.priority("", task.name, header | {"pin": task.pinned})
        self._backlog.publish(task, self._scale.level_of(number))

    def take(self, now: float) -> Job | None:  # noqa: ARG002 - the levels decide
        """The next of the first level that is not empty."""
        task = self._backlog.consume()
        return None if task is None else self._jobs.pop(task.id)

    def give_back(self, job: Job) -> None:
        """Put it at the front of the level that its producer would choose, as kombu restores a message."""
        task, before = job.pending, self._backlog.count()
        self.publish(job, task.published)
        level = next(place for place, count in self._backlog.count().items() if count > before[place])
        self._backlog.apply([Move(task, level, level, 0.0, "restored", first=True)])

    def tick(self, now: float) -> None:
        """Read, score, plan, move: as the reprioritizer does."""
        self._spill(now)
        snapshot = self._backlog.read(now)
        runtimes, use = self._learning.read(now)
        score = self._scores.bind(Context(now, runtimes, use), self._middle_of(snapshot))
        plan = self._planner.plan(
            replace(snapshot, overflow=self._scores.candidates(snapshot.overflow, score, self._planner.window)),
            score,
            now,
            bands=self._bands,
            patience=self._scores.patience(),
            cost=lambda _: self._move_seconds,
            budget=self._budget,
        )
        self._bands = plan.bands
        moved = self._backlog.apply(plan.moves).count(Outcome.MOVED)
        self.moves += moved
        self.broker_seconds += moved * self._move_seconds
        self._scores.prune(self._jobs, known=len(self._jobs))

    def ended(self, job: Job, seconds: float, now: float) -> None:
        """Learn from a run."""
        self._learning.add(job, seconds, now)

    def _spill(self, now: float) -> None:
        window = self._planner.window
        front = sum(count for place, count in self._backlog.count().items() if is_level(place))
        if front > SLACK * window:
            spilled = self._backlog.spill(min(front - window, SPILL_WINDOWS * window), now)
            self.moves += spilled
            self.broker_seconds += spilled * self._move_seconds

    def _middle_of(self, snapshot: Snapshot) -> Callable[[PendingTask], float]:
        """The score of a task without any valid one: that of its place."""
        bands = self._bands or Bands.equal(self._planner.levels)

        def score(task: PendingTask) -> float:
            places: list[Place] = [level for level, tasks in enumerate(snapshot.levels) if task in tasks]
            return bands.middle(places[0]) if places else 0.5

        return score
