"""Histograms of how long tasks waited and ran, by task and level."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from celery_dynprio.models import Run

#: Upper bounds of the buckets in seconds; one more bucket is for longer times.
BOUNDS: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)


OTHER: Final = "other"


class Distribution:
    """Durations (seconds), counted by bucket."""

    def __init__(self, total: float = 0.0, counts: Sequence[float] = ()) -> None:
        self.total = total
        #: How many there are in each bucket of :data:`BOUNDS`, and above.
        self.counts = list(counts) or [0.0] * (len(BOUNDS) + 1)

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self.total += seconds
        self.counts[bisect_left(BOUNDS, seconds)] += 1

    def row(self) -> list[float]:
        """The sum and the counts, as one list."""
        return [self.total, *self.counts]


class Series(NamedTuple):
    """Figures about the runs of one task from one level."""

    waits: Distribution
    runs: Distribution
    #: How many started in time for their deadline, and how many too late.
    deadlines: list[float]

    @classmethod
    def empty(cls) -> Series:
        """Return a series without any counts."""
        return cls(Distribution(), Distribution(), [0.0, 0.0])

    @classmethod
    def of(cls, row: Sequence[float]) -> Series:
        """Return the series that :meth:`row` made a list of."""
        size = len(BOUNDS) + 2
        waits, runs = row[:size], row[size : 2 * size]
        return cls(Distribution(waits[0], waits[1:]), Distribution(runs[0], runs[1:]), list(row[2 * size :]))

    def add(self, run: Run) -> None:
        """Count one run; unknown values are left out."""
        self.runs.add(run.seconds)
        if run.wait is not None:
            self.waits.add(run.wait)
        if run.in_time is not None:
            self.deadlines[0 if run.in_time else 1] += 1

    def row(self) -> list[float]:
        """All figures as one list of :data:`ROW` numbers."""
        return [*self.waits.row(), *self.runs.row(), *self.deadlines]


#: How many numbers a series consists of.
ROW: Final = len(Series.empty().row())


class SeriesKey(NamedTuple):
    """What a series is about."""

    task: str
    #: None if unknown.
    level: int | None


class Histograms(Protocol):
    """A store of histograms."""

    def add(self, runs: Iterable[Run]) -> None:
        """Count these runs."""

    def read(self) -> Mapping[SeriesKey, Series]:
        """Return all counts."""

    def close(self) -> None:
        """Close the connection that the store was given."""


def count_runs(runs: Iterable[Run], series: dict[SeriesKey, Series]) -> None:
    """Count these runs in the series of their task and level, which are added as needed."""
    for run in runs:
        key = SeriesKey(run.name, run.level)
        if key not in series:
            series[key] = Series.empty()
        series[key].add(run)
