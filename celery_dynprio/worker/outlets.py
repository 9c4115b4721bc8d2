"""Where reports of tasks go: the trace store, and all that learns from runs or counts them, over one connection."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from celery_dynprio.ports.broker import Broker
from celery_dynprio.ports.spans import Spans
from celery_dynprio.tracing.runs import Running
from celery_dynprio.worker import usage
from celery_dynprio.worker.entries import Entry, Report, coalesced, lone_run, record_of
from celery_dynprio.worker.feeding import Feeding
from celery_dynprio.worker.sender import Outlet, Sender, Store

if TYPE_CHECKING:
    from celery_dynprio.settings import Settings


class Traces:
    """Takes reports into the trace store, and counts those that did not get there."""

    def __init__(self, open_spans: Callable[[], Spans]) -> None:
        self.not_sent = 0
        self._open = open_spans
        self._spans: Spans | None = None

    @property
    def no_room(self) -> int:
        """Records for which the store had no room."""
        return 0 if self._spans is None else self._spans.dropped

    def add(self, reports: Sequence[Report], /) -> None:
        """Store the last record of each run."""
        lone, others = [], []
        for report in reports:
            run = lone_run(report)
            if run is None:
                others.append(report)
            else:
                lone.append(run)
        records = list(coalesced(map(record_of, others)))
        self.not_sent += len(records) + len(lone)  # until there is an answer
        spans = self.spans()
        before = spans.taken
        try:
            spans.add(records, lone)
        finally:
            self.not_sent -= spans.taken - before

    def spans(self) -> Spans:
        """Return the store, which is opened when it is first needed."""
        if self._spans is None:
            self._spans = self._open()
        return self._spans

    def close(self) -> None:
        """Close the store, if it was opened."""
        if self._spans is not None:
            self._spans.close()


class DroppedSpans:
    """Reports to the store, at each send and after the records, what it did not get: for Prometheus."""

    def __init__(self, spans: Spans, totals: Callable[[], Mapping[str, int]]) -> None:
        self._spans = spans
        self._totals = totals

    def add(self, _: Sequence[Report], /) -> None:
        """Add what was dropped since the last send."""
        self._spans.add_dropped(self._totals())

    def close(self) -> None:
        """Close the store's connection."""
        self._spans.close()


class SharedBroker:
    """The connection that all outlets share; only the first of them in each send finds out that the broker is away."""

    def __init__(self, connect: Callable[[], Broker]) -> None:
        self._connect = connect
        self._broker: Broker | None = None
        self._problem: Exception | None = None

    def __call__(self) -> Broker:
        """Return the broker; connect when it is first needed."""
        if self._problem is not None:
            raise self._problem
        if self._broker is None:
            try:
                self._broker = self._connect()
            except Exception as exc:
                self._problem = exc
                raise
        return self._broker

    def try_again(self) -> None:
        """Let the next call connect again."""
        self._problem = None

    def rest(self) -> None:
        """Close what is connected until it is needed again."""
        if self._broker is not None:
            self._broker.rest()


class Outlets:
    """All outlets of a process; what goes wrong with one of them concerns none of the others."""

    def __init__(self, outlets: Sequence[Outlet[Report]], before: Callable[[], None] = lambda: None) -> None:
        self._outlets = outlets
        self._before = before

    def add(self, entries: Sequence[Entry], /) -> None:
        """Hand reports of these to all outlets; what a run has already reported is left out."""
        reports = [entry.report() if isinstance(entry, Running) else entry for entry in entries]
        news = [report for report in reports if report is not None]
        self._before()
        for outlet in self._outlets:
            outlet.add(news)

    def close(self) -> None:
        """Close all outlets."""
        for outlet in self._outlets:
            outlet.close()


def open_outlets(settings: Settings, connect: Callable[[], Broker], sender: Sender[Entry]) -> Store[Entry]:
    """Return the outlets that the settings ask for; ``sender`` sends to them, and lets their connection rest."""
    broker = SharedBroker(connect)
    sender.rest = broker.rest
    outlets: list[Outlet[Report]] = usage.outlets(lambda: broker().stores, settings)
    sender.remind = _reminder([each for each in outlets if isinstance(each, usage.RunningOutlet)], broker)
    if settings.trace:
        bounds = settings.trace_ttl, settings.trace_max_spans, settings.trace_total_spans
        traces = Traces(lambda: broker().stores.spans(*bounds))
        outlets.append(Outlet("trace spans", lambda: traces))
        if settings.metrics_port is not None:

            def totals() -> dict[str, int]:
                return {"no_room": traces.no_room, "not_sent": traces.not_sent + sender.dropped}

            dropped = "counts of dropped spans"
            outlets.append(Outlet(dropped, lambda: DroppedSpans(traces.spans(), totals)))
    outlets.append(
        Outlet("what is recorded", lambda: Feeding(broker().stores.feed(), settings.queues, lambda: sender.dropped))
    )
    return Outlets(outlets, broker.try_again)


def _reminder(outlets: Sequence[usage.RunningOutlet], broker: SharedBroker) -> Callable[[], float | None]:
    def remind() -> float | None:
        broker.try_again()
        try:
            return next((each.remind() for each in outlets), None)
        finally:
            broker.rest()

    return remind
