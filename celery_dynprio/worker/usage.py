"""Turns runs into figures for learning, metrics and objectives: runtime, key, level, wait."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from celery_dynprio import message
from celery_dynprio.models import Run, Start
from celery_dynprio.objectives import Names
from celery_dynprio.ports.stores import Attainment, Stores
from celery_dynprio.tracing.runs import RunReport
from celery_dynprio.untrusted import number, text_of
from celery_dynprio.worker.sender import Outlet, Store

if TYPE_CHECKING:
    from celery_dynprio.settings import Settings


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
                headers, delivery = report.run.headers, report.run.delivery_info
                fields = headers[message.HEADER]
                foreign = not isinstance(fields, dict)
                queue = delivery.get("routing_key") if isinstance(delivery, dict) else None
                if not foreign or (isinstance(queue, str) and queue in self._queues):
                    yield self._measured(report, headers, {} if foreign else fields)

    def _measured(self, report: RunReport, headers: dict[str, Any], fields: dict[str, Any]) -> Run:
        name, seconds = report.run.task.name, report.ran or 0.0
        key = text_of(fields.get("key"), message.MAX_KEY)
        if not self._spans:
            return Run(name, key, seconds)
        span, deadline = report.run.span(), number(fields.get("due"))
        in_time = None if deadline is None else report.run.started <= deadline
        # A task with an ETA, as each retry has one, did not wait for a worker until then.
        wait = span.wait if headers["eta"] is None else None
        return Run(name, key, seconds, span.level, wait, in_time)


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


def outlets(stores: Callable[[], Stores], settings: Settings) -> list[Outlet[Any]]:
    """Return the outlets for runs that the settings ask for; ``stores`` is called when one of them first needs it."""
    found: list[Outlet[Any]] = []
    queues, half_life, objectives = settings.queues, settings.half_life, settings.objectives
    if settings.learn:
        found.append(Outlet("learned use", lambda: RunFigures(stores().usage(half_life), queues, spans=False)))
    if settings.metrics_port is not None:
        found.append(Outlet("histograms", lambda: RunFigures(stores().histograms(), queues, spans=True)))
    if objectives:
        names = Names([objective.match for objective in objectives])
        counts = "starts for objectives"
        found.append(Outlet(counts, lambda: StartCounts(stores().attainment(objectives), names)))
    return found
