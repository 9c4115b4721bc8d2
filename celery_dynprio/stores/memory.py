"""Stores in the memory of this process: for tests, and where nothing else remembers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from celery_dynprio.models import Run
from celery_dynprio.policies.decay import DecayedMean
from celery_dynprio.ports.histograms import Series, SeriesKey, count_runs
from celery_dynprio.ports.stores import UsageFigures
from celery_dynprio.tracing.records import SpanRecord, Trace


class MemorySpans:
    """Spans in this process only, without bounds: for tests."""

    def __init__(self) -> None:
        self.dropped = self.taken = 0
        self._traces: dict[str, dict[str, SpanRecord]] = {}

    def add(self, records: Sequence[SpanRecord], /) -> None:
        """Store these records."""
        for record in records:
            spans = self._traces.setdefault(record.trace_id, {})
            known = spans.get(record.field)
            if known is None or known.rank <= record.rank:
                spans[record.field] = record
            self.taken += 1

    def ids_with(self, start: str) -> set[str]:
        """Return the ids of traces and of tasks that begin with this text."""
        ids = {span.task_id for spans in self._traces.values() for span in spans.values()} | self._traces.keys()
        return {each for each in ids if each.startswith(start)}

    def read(self, trace_or_task_id: str) -> Trace | None:
        """Return the trace with this id, or the newest one with a task of this id; None if there is none."""
        for trace_id, spans in reversed(self._traces.items()):
            if trace_or_task_id in {trace_id, *(span.task_id for span in spans.values())}:
                return Trace(trace_id, tuple(spans.values()))
        return None

    def close(self) -> None:
        """Do nothing: there is no connection."""


class MemoryHistograms:
    """Histograms of this process only: for tests."""

    def __init__(self) -> None:
        self._series: dict[SeriesKey, Series] = {}

    def add(self, runs: Iterable[Run]) -> None:
        """Count these runs."""
        count_runs(runs, self._series)

    def read(self) -> Mapping[SeriesKey, Series]:
        """Return all counts."""
        return dict(self._series)


class MemoryUsage:
    """Learned use in this process only: for tests and simulations. ``half_life`` is in seconds."""

    def __init__(self, half_life: float = 600.0, clock: Callable[[], float] = time.time) -> None:
        self._half_life = half_life
        self._clock = clock
        self._use: dict[str, DecayedMean] = {}
        self._runtimes: dict[str, DecayedMean] = {}

    def add(self, runs: Iterable[Run]) -> None:
        """Learn from these runs, as of now."""
        now = self._clock()
        nothing = DecayedMean(0.0, 0.0, now)
        for run in runs:
            for means, field in ((self._use, run.key), (self._runtimes, run.name)):
                means[field] = means.get(field, nothing).plus(run.seconds, now, self._half_life)

    def read(self, now: float) -> UsageFigures:
        """Return mean runtimes in seconds by name, and decayed use in seconds by key, as of ``now`` (Unix seconds)."""
        return UsageFigures.as_of(now, self._half_life, self._runtimes, self._use)

    def close(self) -> None:
        """Do nothing: there is no connection."""
