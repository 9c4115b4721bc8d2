"""The metrics that reprioritizers serve to Prometheus.

Metrics are safe to sum over all processes. Each process reports its own ticks and moves. Only a queue's leader, paused
or not, reports what is pending in it, and only the leader of the first managed queue reports what workers counted and
learned. A leader whose ticks fail stops reporting old figures when its lease expires.

Metrics are computed when Prometheus asks for them, in a thread of their own. A tick only stores its report.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from celery_dynprio.assembly import broker_errors
from celery_dynprio.errors import BrokerUnavailableError, DynPrioError
from celery_dynprio.models import OVERFLOW, Move, Outcome, Report, Role
from celery_dynprio.monitoring import metrics
from celery_dynprio.monitoring.server import Server
from celery_dynprio.ports.histograms import Distribution, Histograms, Series, SeriesKey
from celery_dynprio.ports.installation import Installation
from celery_dynprio.ports.spans import Spans
from celery_dynprio.ports.stores import Usage
from celery_dynprio.settings import Settings

#: Seconds within which the broker must answer, while Prometheus waits.
TIMEOUT: Final = 2.0

#: The roles of a process that has the lease.
LEADING: Final = frozenset({Role.LEADER, Role.PAUSED})


class Shared(NamedTuple):
    """Figures that all processes share, kept in the broker."""

    series: Mapping[SeriesKey, Series]
    #: Decayed use in seconds by fairness key.
    use: Mapping[str, float]
    #: Records that the trace store did not get, by cause.
    dropped: Mapping[str, int]


@dataclass(slots=True)
class _Queue:
    """Figures of this process about one queue."""

    report: Report | None = None
    #: Seconds of the ticks in which the queue was read.
    ticks: Distribution = field(default_factory=Distribution)
    #: By direction and reason.
    moves: Counter[tuple[str, str]] = field(default_factory=Counter)
    missed: int = 0
    #: By cause.
    errors: Counter[str] = field(default_factory=lambda: Counter(broker=0, other=0))


class Exporter(Collector):
    """The metrics of one process; an observer of its reprioritizers.

    ``shared`` reads the figures that all processes share, and may raise the errors of a broker that is away. Only the
    leader of the queue ``first`` calls it. ``dropped`` returns how many events were dropped; None if none are sent.
    ``clock`` gives Unix seconds.
    """

    def __init__(
        self,
        settings: Settings,
        first: str,
        shared: Callable[[], Shared],
        dropped: Callable[[], int] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._first = first
        self._shared = shared
        self._dropped = dropped
        self._clock = clock
        self._queues = {queue: _Queue() for queue in settings.queues}
        self._errors = 0
        self._broker_errors: tuple[type[Exception], ...] = (*broker_errors().any, BrokerUnavailableError)

    def observe(self, report: Report) -> None:
        """Store the report of a tick."""
        queue = self._queues[report.queue]
        queue.report = report
        if report.snapshot is not None and report.seconds:  # an empty queue that was only looked at was not ticked
            queue.ticks.add(report.seconds)
        for move, outcome in zip(report.moves, report.outcomes, strict=False):
            if outcome is Outcome.MOVED:
                queue.moves[direction(move), move.reason] += 1
            else:
                queue.missed += 1
        if report.spilled:
            queue.moves["park", "overflow"] += report.spilled

    def failed(self, queue: str, problem: Exception) -> None:
        """Count the failure of a tick of this queue."""
        self._queues[queue].errors["broker" if isinstance(problem, self._broker_errors) else "other"] += 1

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics, as of now."""
        now = self._clock()
        known = {name: queue.report for name, queue in self._queues.items() if queue.report is not None}
        leads = {name: report for name, report in known.items() if self._leads(report, now)}
        yield from self._process(known, leads, now)
        yield from self._ticks()
        yield from metrics.waiting(leads.values())
        if self._first in leads and self._settings.objectives:
            yield from metrics.objectives(leads[self._first].standings)
        shared = self._read() if self._first in leads else None
        if shared is not None:
            yield from metrics.tasks(shared.series)
            yield metrics.use(shared.use)
            yield metrics.counter(
                "spans_dropped",
                "Records of runs that may be missing in the trace store.",
                ("cause",),
                {(cause,): count for cause, count in shared.dropped.items()},
            )
        yield metrics.counter("scrape_errors", "Scrapes at which the broker did not answer.", (), {(): self._errors})
        if self._dropped is not None:
            yield metrics.counter("events_dropped", "Celery events that were not sent.", (), {(): self._dropped()})

    def _leads(self, report: Report, now: float) -> bool:
        """Whether this process has the lease, which expires some time after the last successful tick."""
        lasts = max(self._settings.lease_ttl, 2 * self._settings.interval)
        return report.role in LEADING and now - report.started - report.seconds <= lasts

    def _process(self, known: Mapping[str, Report], leads: Mapping[str, Report], now: float) -> Iterator[Metric]:
        yield metrics.gauge(
            "leader",
            "1 if this process leads the queue, paused or not.",
            ("queue",),
            {(name,): name in leads for name in self._queues},
        )
        yield metrics.gauge(
            "role",
            "1 for the role of this process in its last tick.",
            ("queue", "role"),
            {(name, role.value): report.role is role for name, report in known.items() for role in Role},
        )
        yield metrics.gauge(
            "last_tick_timestamp_seconds",
            "When the last successful tick began.",
            ("queue",),
            {(name,): report.started for name, report in known.items()},
        )
        yield metrics.gauge(
            "tick_lag_seconds",
            "How long the next tick is overdue.",
            ("queue",),
            {(name,): max(now - report.started - self._settings.interval, 0.0) for name, report in known.items()},
        )

    def _ticks(self) -> Iterator[Metric]:
        queues = self._queues
        yield metrics.histogram(
            "tick_seconds",
            "How long ticks took.",
            ("queue",),
            {(name,): queue.ticks for name, queue in queues.items()},
        )
        yield metrics.counter(
            "tick_errors",
            "Ticks that failed, because the broker was away or for another cause.",
            ("queue", "cause"),
            {(name, cause): count for name, queue in queues.items() for cause, count in list(queue.errors.items())},
        )
        yield metrics.counter(
            "moves",
            "Moves that this process made.",
            ("queue", "direction", "reason"),
            {(name, *what): count for name, queue in queues.items() for what, count in list(queue.moves.items())},
        )
        yield metrics.counter(
            "moves_missed",
            "Moves of tasks that were no longer where they had been.",
            ("queue",),
            {(name,): queue.missed for name, queue in queues.items()},
        )

    def _read(self) -> Shared | None:
        failures: tuple[type[Exception], ...] = (*self._broker_errors, DynPrioError)
        try:
            return self._shared()
        except failures:
            self._errors += 1
            return None


class Served(Exporter):
    """The metrics of one process, served on a port."""

    def __init__(
        self, installation: Installation, settings: Settings, port: int, dropped: Callable[[], int] | None = None
    ) -> None:
        self._reader = _Reader(installation, settings.half_life)
        # The first of all managed queues, not of those that --queues leaves to this process.
        super().__init__(settings, installation.settings.queues[0], self._reader.read, dropped)
        registry = CollectorRegistry()
        registry.register(self)
        self._server = Server(registry, port, settings.metrics_host)
        self._server.start()

    def close(self) -> None:
        """Close the port and the connection."""
        self._server.stop()
        self._reader.close()


class _Reader:
    """Reads the shared figures over a connection of its own, which is opened again after any error."""

    def __init__(self, installation: Installation, half_life: float) -> None:
        self._installation = installation
        self._half_life = half_life
        self._open: tuple[Usage, Histograms, Spans] | None = None
        self._lock = threading.Lock()

    def read(self) -> Shared:
        with self._lock:  # of two scrapes the second waits
            try:
                if self._open is None:
                    stores = self._installation.connect(TIMEOUT).stores
                    self._open = stores.usage(self._half_life), stores.histograms(), stores.spans()
                usage, histograms, spans = self._open
                return Shared(histograms.read(), usage.read(time.time()).use, spans.dropped_counts())
            except Exception:
                self.close()
                raise

    def close(self) -> None:
        if self._open is not None:
            self._open[0].close()  # all have the same connection
            self._open = None


def direction(move: Move) -> str:
    """Return the direction of a move: up, down, park or refill."""
    if move.target == OVERFLOW:
        return "park"
    if move.source == OVERFLOW:
        return "refill"
    return "up" if move.target < move.source else "down"
