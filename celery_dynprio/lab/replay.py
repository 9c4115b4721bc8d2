"""The simulation: tasks arrive as they were recorded, slots take them as a discipline says, and each runs as it did.

Discrete events, non-preemptive, open loop. What is random in a workload is drawn before; the replay itself draws
nothing, so that equal arguments give equal results to the last digit. At one moment runs end first, then tasks come
back from a pause, then tasks and workers of the recording arrive; a tick comes before all of them.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final

from celery_dynprio.lab.disciplines import Discipline
from celery_dynprio.lab.jobs import Job
from celery_dynprio.lab.nodes import Node, Nodes
from celery_dynprio.lab.record import Record
from celery_dynprio.lab.recording import Entry, Slots, Task

_END: Final = 0
_BACK: Final = 1


@dataclass(frozen=True, slots=True)
class Fleet:
    """The workers: so many, each with so many slots, each of which reserves so many tasks beside the one it runs.

    ``workers`` is None for those that the recording tells of, which come and go.
    """

    workers: int | None = 8
    concurrency: int = 1
    prefetch: int = 0
    #: Seconds that a slot needs between two runs: to acknowledge, to store a result, to get the next message.
    turnaround: float = 0.0

    @property
    def slots(self) -> int | None:
        """All slots; None if the recording tells."""
        return None if self.workers is None else self.workers * self.concurrency


@dataclass(frozen=True, slots=True)
class Opening:
    """What is under way when a replay begins; the discipline may hold tasks already.

    By worker: ``slots`` tells how many tasks it runs at once, ``ahead`` how many it takes ahead beside them, and
    ``taken`` what it runs and then what it has reserved. A job that runs has what is left of its run time.
    """

    #: Unix seconds.
    at: float
    slots: Mapping[str, int]
    ahead: Mapping[str, int]
    taken: Mapping[str, Sequence[Job]]


def by_name(task: Task) -> str:
    """The class of a task: its name."""
    return task.name


def replay(
    entries: Iterable[Entry],
    discipline: Discipline,
    fleet: Fleet,
    *,
    tick: float = 1.0,
    group: Callable[[Task], str] = by_name,
    opening: Opening | None = None,
    started: Callable[[Job, float], object] = lambda _job, _now: None,
) -> Record:
    """Play a recording, ordered by time, until all its tasks have ended; ``tick`` is seconds between two ticks.

    ``group`` tells the class of a task, under which it is recorded. With an ``opening``, the replay begins in the
    middle of things, with its workers beside those of the fleet. ``started`` is called with each job that a worker
    starts, and the time.
    """
    played = _Replay(entries, discipline, fleet, tick, group, started=started)
    if opening is not None:
        played.open(opening)
    return played.play()


class _Replay:
    def __init__(
        self,
        entries: Iterable[Entry],
        discipline: Discipline,
        fleet: Fleet,
        tick: float,
        group: Callable[[Task], str],
        *,
        started: Callable[[Job, float], object],
    ) -> None:
        self._discipline, self._group, self._on_start = discipline, group, started
        self._arrivals: Iterator[Entry] = iter(entries)
        self._arrival = next(self._arrivals, None)
        self._fixed = fleet.workers is not None
        self._nodes = Nodes(fleet.prefetch)
        self._turnaround = fleet.turnaround
        for number in range(fleet.workers or 0):
            self._nodes.set_slots(f"worker-{number}", fleet.concurrency)
        self._record = Record()
        self._events: list[tuple[float, int, int, Job, Node | None]] = []
        self._order, self._index = count(), count()
        self._started = self._now = self._arrival.at if self._arrival else 0.0
        self._tick, self._ticks = tick, 1
        self._unfinished = 0

    def open(self, opening: Opening) -> None:
        self._started = self._now = opening.at
        for worker, slots in opening.slots.items():
            node, _ = self._nodes.set_slots(worker, slots, opening.ahead.get(worker, 0))
            for job in opening.taken.get(worker, ()):
                self._unfinished += 1
                self._nodes.reserve(node, job)
            self._start(node, opening.at)
        self._serve(opening.at)

    def play(self) -> Record:
        while (moment := self._next()) is not None:
            self._account(moment)
            if moment == self._due() and len(self._discipline):
                self._discipline.tick(moment)
                self._ticks += 1
                self._record.ticks += 1
            else:
                self._happen(moment)
            self._serve(moment)
        record = self._record
        record.moves, record.broker_seconds = self._discipline.moves, self._discipline.broker_seconds
        record.unfinished = self._unfinished
        record.seconds = self._now - self._started
        record.pending = record.pending / record.seconds if record.seconds else 0.0
        return record

    def _next(self) -> float | None:
        """When something happens next; None if nothing ever will. Ticks over an empty queue do nothing: left out."""
        event = min(
            self._events[0][0] if self._events else math.inf,
            self._arrival.at if self._arrival is not None else math.inf,
        )
        if not len(self._discipline):
            if event == math.inf:
                return None
            if event >= self._due():
                self._ticks = math.floor((event - self._started) / self._tick) + 1
            return event
        if event == math.inf and not (self._nodes.slots > self._nodes.running):
            return None
        return min(event, self._due())

    def _due(self) -> float:
        return self._started + self._ticks * self._tick

    def _account(self, moment: float) -> None:
        """Add up what lasted until now."""
        span, nodes, record = moment - self._now, self._nodes, self._record
        if span > 0:
            waiting = len(self._discipline) + nodes.reserved
            record.pending += span * waiting
            record.busy += span * nodes.running
            record.offered += span * nodes.slots
            idle = nodes.slots - nodes.running
            if idle > 0 and waiting:
                record.idle += span * min(idle, waiting)
        self._now = moment

    def _happen(self, now: float) -> None:
        if self._events and self._events[0][0] == now:
            _, kind, _, job, node = heapq.heappop(self._events)
            if kind == _END and node is not None:
                self._end(job, node, now)
            else:
                self._discipline.publish(job, now)
            return
        entry = self._arrival
        self._arrival = next(self._arrivals, None)
        if isinstance(entry, Slots):
            if not self._fixed:
                self._resize(entry, now)
        elif entry is not None:
            self._arrive(entry, now)

    def _arrive(self, task: Task, now: float) -> None:
        self._unfinished += 1
        job = Job.of(next(self._index), task, now + max(task.eta or 0.0, 0.0))
        if job.ready > now:
            heapq.heappush(self._events, (job.ready, _BACK, next(self._order), job, None))
        else:
            self._discipline.publish(job, now)

    def _resize(self, entry: Slots, now: float) -> None:
        node, returned = self._nodes.set_slots(entry.worker, entry.slots)
        for job in returned:
            self._discipline.give_back(job)
        self._start(node, now)

    def _end(self, job: Job, node: Node, now: float) -> None:
        self._nodes.ended(node)
        self._discipline.ended(job, job.run, now)
        if job.failing:
            ready = now + job.failing[0].pause
            job.again(ready)
            heapq.heappush(self._events, (ready, _BACK, next(self._order), job, None))
        else:
            self._unfinished -= 1
            self._record.add(job, self._group(job.task))
        self._start(node, now)

    def _serve(self, now: float) -> None:
        """Hand out tasks as long as a worker asks for one and there is one."""
        while len(self._discipline) and (node := self._nodes.next()):
            job = self._discipline.take(now)
            if job is None:  # all that waits is parked: the next tick brings it back
                self._nodes.ask(node)
                return
            self._nodes.reserve(node, job)
            self._start(node, now)

    def _start(self, node: Node, now: float) -> None:
        for job in self._nodes.starting(node):
            job.start(now)
            self._discipline.started(job, now)
            self._on_start(job, now)
            heapq.heappush(self._events, (now + job.run + self._turnaround, _END, next(self._order), job, node))
