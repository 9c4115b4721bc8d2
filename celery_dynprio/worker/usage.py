"""Turns runs into figures for learning, metrics and objectives: runtime, key, level, wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from celery_dynprio import message
from celery_dynprio.models import Run, RunningTask, Start
from celery_dynprio.objectives import Names
from celery_dynprio.ports.stores import RUNNING_TTL, Attainment, RunningStore, Stores
from celery_dynprio.tracing.runs import Running, RunReport, retries_of
from celery_dynprio.untrusted import number, text_of
from celery_dynprio.worker.sender import Outlet, Store

if TYPE_CHECKING:
    from celery_dynprio.settings import Settings


#: Seconds after which it is told again what runs.
REMINDER: Final = RUNNING_TTL / 3

#: Seconds after which nobody is told of a run any more, even if it goes on.
LONGEST: Final = 86_400.0


def fields_of(run: Running, queues: Collection[str]) -> dict[str, Any] | None:
    """Return the fields of our header, none for a foreign task; None for one that is not from these queues either."""
    fields, delivery = run.fields, run.delivery_info
    if isinstance(fields, dict):
        return fields
    queue = delivery.get("routing_key") if isinstance(delivery, dict) else None
    return {} if isinstance(queue, str) and queue in queues else None


class RunFigures:
    """Sends the figures of runs that ended to a store; of foreign tasks, only those from managed queues.

    ``spans`` tells whether level and wait are wanted, too, which need the run's span.
    """

    def __init__(self, store: Store[Run], queues: Collection[str], *, spans: bool) -> None:
        self._store = store
        self._queues = queues
        self._spans = spans

    def add(self, entries: Sequence[Any], /) -> None:
        """Handle the reports of runs; ignore other entries."""
        self._store.add(list(self._read(entries)))

    def close(self) -> None:
        """Close the store's connection to the broker."""
        self._store.close()

    def _read(self, entries: Sequence[Any]) -> Iterator[Run]:
        for report in entries:
            if isinstance(report, RunReport) and report.ran is not None:
                fields = fields_of(report.run, self._queues)
                if fields is not None:
                    yield self._measured(report, fields)

    def _measured(self, report: RunReport, fields: dict[str, Any]) -> Run:
        name, seconds = report.run.task.name, report.ran or 0.0
        key = text_of(fields.get("key"), message.MAX_KEY)
        if not self._spans:
            return Run(name, key, seconds)
        span, deadline = report.run.span(), number(fields.get("due"))
        in_time = None if deadline is None else report.run.started <= deadline
        # A task with an ETA, as each retry has one, did not wait for a worker until then.
        wait = span.wait if report.run.headers["eta"] is None else None
        return Run(name, key, seconds, span.level, wait, in_time)


class RunningTasks:
    """Tells a store what runs in this process, and again from time to time; of foreign tasks, as :class:`RunFigures`.

    What has ended before its start was told is left out: for short tasks there is nothing to do. ``clock`` gives Unix
    seconds.
    """

    def __init__(self, store: RunningStore, queues: Collection[str], clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._queues = queues
        self._clock = clock
        self._told: dict[str, tuple[Running, RunningTask]] = {}
        self._reminded = clock()

    def add(self, entries: Sequence[Any], /) -> None:
        """Handle the reports of runs; ignore other entries."""
        reports = [each for each in entries if isinstance(each, RunReport)]
        known = self._told  # mostly nothing, and an id takes longer to make
        ended = [run_id for each in reports if known and each.ran is not None and (run_id := _id(each.run)) in known]
        started = [each.run for each in reports if each.ran is None and each.first]
        self._end(ended)
        new = {_id(run): (run, task) for run in started if (task := self._read(run)) is not None}
        if new:
            self._store.start([task for _, task in new.values()], self._clock())
            self._told |= new
        self.remind()

    def remind(self) -> float | None:
        """Tell again what runs, if it is time; return the seconds until the next time, None if nothing runs."""
        now = self._clock()
        if not 0 <= now - self._reminded < REMINDER:
            self._reminded = now
            # Of these the report was lost, or never comes: a greenlet was killed.
            self._end([each for each, (run, _) in self._told.items() if run.has_ended or now - run.started > LONGEST])
            if self._told:
                self._store.start([task for _, task in self._told.values()], now)
        return max(self._reminded + REMINDER - now, 0.0) if self._told else None

    def close(self) -> None:
        """Take back what was told, as this process ends, and close the connection to the broker."""
        self._end(list(self._told))
        self._store.close()

    def _end(self, ids: Sequence[str]) -> None:
        if ids:
            self._store.end(ids)
        for each in ids:
            del self._told[each]

    def _read(self, run: Running) -> RunningTask | None:
        fields = fields_of(run, self._queues)
        if fields is None:
            return None
        return RunningTask(_id(run), run.task.name, text_of(fields.get("key"), message.MAX_KEY), run.started)


def _id(run: Running) -> str:
    return f"{run.id}/{retries_of(run.headers)}"


class StartCounts:
    """Counts the runs that objectives are about, except for tasks with an ETA."""

    def __init__(self, attainment: Attainment, names: Names) -> None:
        self._attainment = attainment
        self._names = names

    def add(self, entries: Sequence[Any], /) -> None:
        """Handle the reports of runs; ignore other entries."""
        starts = []
        for report in entries:
            if isinstance(report, RunReport) and report.first and report.run.headers["eta"] is None:
                name = report.run.task.name
                wait = report.run.span().wait if self._names.matching(name) else None
                if wait is not None:
                    starts.append(Start(name, wait))
        if starts:
            self._attainment.add(starts)

    def close(self) -> None:
        """Close the connection to the broker."""
        self._attainment.close()


class RunningOutlet(Outlet[Any]):
    """Where it is told what runs."""

    def __init__(self, stores: Callable[[], Stores], queues: Collection[str]) -> None:
        self._tasks: RunningTasks | None = None
        super().__init__("what runs", lambda: self._opened(stores, queues))

    def _opened(self, stores: Callable[[], Stores], queues: Collection[str]) -> RunningTasks:
        self._tasks = RunningTasks(stores().running(), queues)
        return self._tasks

    def remind(self) -> float | None:
        """As :meth:`RunningTasks.remind`."""
        return None if self._tasks is None else self._tasks.remind()


def outlets(stores: Callable[[], Stores], settings: Settings) -> list[Outlet[Any]]:
    """Return the outlets for runs that the settings ask for; ``stores`` is called when one of them first needs it."""
    found: list[Outlet[Any]] = []
    queues, half_life, objectives = settings.queues, settings.half_life, settings.objectives
    if settings.learn:
        found.append(Outlet("learned use", lambda: RunFigures(stores().usage(half_life), queues, spans=False)))
        # After the one above: what has ended is first added to the use, and then taken away from what runs.
        found.append(RunningOutlet(stores, queues))
    if settings.metrics_port is not None:
        found.append(Outlet("histograms", lambda: RunFigures(stores().histograms(), queues, spans=True)))
    if objectives:
        names = Names([objective.match for objective in objectives])
        counts = "starts for objectives"
        found.append(Outlet(counts, lambda: StartCounts(stores().attainment(objectives), names)))
    return found
