"""Orders in which a queue may be worked off, to compare a policy with. None of them moves anything."""

from __future__ import annotations

import heapq
import math
from abc import ABC, abstractmethod
from collections import deque
from typing import Final, Protocol

from celery_dynprio.lab.jobs import Job


class Discipline(Protocol):
    """What waits, and who is next."""

    #: Moves that it made, and how many seconds of the broker's time they cost.
    moves: int
    broker_seconds: float

    def __len__(self) -> int:
        """How many jobs wait."""

    def publish(self, job: Job, now: float) -> None:
        """Put a job where its producer puts it."""

    def take(self, now: float) -> Job | None:
        """Hand out the next job; None if none can be had."""

    def give_back(self, job: Job) -> None:
        """Take back a job that was reserved by a worker that left; it is the next of its equals."""

    def tick(self, now: float) -> None:
        """Put what waits in order."""

    def started(self, job: Job, now: float) -> None:
        """Note what runs."""

    def ended(self, job: Job, seconds: float, now: float) -> None:
        """Learn from a run."""


class Still:
    """A discipline that neither moves nor learns."""

    moves = 0
    broker_seconds = 0.0

    def tick(self, now: float) -> None:
        """Nothing to put in order."""

    def started(self, job: Job, now: float) -> None:
        """Nothing to note."""

    def ended(self, job: Job, seconds: float, now: float) -> None:
        """Nothing to learn."""


class FirstCome(Still):
    """In the order of arrival: a plain queue."""

    def __init__(self) -> None:
        self._waiting: deque[Job] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def publish(self, job: Job, now: float) -> None:  # noqa: ARG002 - the order of calls is that of time
        """Put it at the end."""
        self._waiting.append(job)

    def take(self, now: float) -> Job | None:  # noqa: ARG002 - as above
        """The first one."""
        return self._waiting.popleft() if self._waiting else None

    def give_back(self, job: Job) -> None:
        """Put it at the front."""
        self._waiting.appendleft(job)


class StaticPriorities(Still):
    """Celery's own priorities, fixed at publishing: four lists, as kombu has them for Redis, chosen by the weight."""

    LEVELS: Final = 4
    _LARGEST: Final = 10.0

    def __init__(self) -> None:
        self._levels = [FirstCome() for _ in range(self.LEVELS)]

    def __len__(self) -> int:
        return sum(map(len, self._levels))

    def _level(self, job: Job) -> FirstCome:
        place = int((1.0 - job.task.weight / self._LARGEST) * self.LEVELS)
        return self._levels[min(max(place, 0), self.LEVELS - 1)]

    def publish(self, job: Job, now: float) -> None:
        """Put it at the end of its level."""
        self._level(job).publish(job, now)

    def take(self, now: float) -> Job | None:
        """The first one of the first level."""
        return next((level.take(now) for level in self._levels if len(level)), None)

    def give_back(self, job: Job) -> None:
        """Put it at the front of its level."""
        self._level(job).give_back(job)


class RoundRobin(Still):
    """The keys take turns, one task each."""

    def __init__(self) -> None:
        self._keys: dict[str | None, FirstCome] = {}
        self._turns: deque[str | None] = deque()
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def publish(self, job: Job, now: float) -> None:
        """Put it behind the others of its key; a key that comes anew is the last in turn."""
        key = job.task.key
        if key not in self._keys:
            self._keys[key] = FirstCome()
            self._turns.append(key)
        self._keys[key].publish(job, now)
        self._waiting += 1

    def take(self, now: float) -> Job | None:
        """The first one of the key whose turn it is."""
        if not self._turns:
            return None
        key = self._turns.popleft()
        jobs = self._keys[key]
        job = jobs.take(now)
        if len(jobs):
            self._turns.append(key)
        else:
            del self._keys[key]
        self._waiting -= 1
        return job

    def give_back(self, job: Job) -> None:
        """Put it before the others of its key, and give that the next turn."""
        key = job.task.key
        if key in self._keys:
            self._turns.remove(key)
        self._keys.setdefault(key, FirstCome()).give_back(job)
        self._turns.appendleft(key)
        self._waiting += 1


class _Ranked(Still, ABC):
    """By a rank that does not change while a job waits; the oldest first among equals."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, float, int, Job]] = []

    def __len__(self) -> int:
        return len(self._heap)

    @abstractmethod
    def _rank(self, job: Job) -> float:
        """The lowest is first."""

    def publish(self, job: Job, now: float) -> None:  # noqa: ARG002 - the rank decides
        """Put it where it belongs."""
        heapq.heappush(self._heap, (self._rank(job), job.ready, job.index, job))

    def take(self, now: float) -> Job | None:  # noqa: ARG002 - as above
        """The first one."""
        return heapq.heappop(self._heap)[-1] if self._heap else None

    def give_back(self, job: Job) -> None:
        """Put it where it was."""
        self.publish(job, job.ready)


class EarliestDeadline(_Ranked):
    """Earliest deadline first (Liu and Layland 1973); tasks without a deadline last, in the order of arrival."""

    def _rank(self, job: Job) -> float:
        due = job.pending.deadline
        return math.inf if due is None else due


class ShortestJob(_Ranked):
    """Shortest job first (Smith 1956) with run times known beforehand: a bound on the mean wait, not a choice."""

    def _rank(self, job: Job) -> float:
        return job.run
