"""Histograms of how long tasks waited and ran, by task and level: workers count, monitoring shows them.

Workers add their counts to one small hash in the broker, so monitoring need not ask the workers. The counts only grow,
as Prometheus expects of counters. The hash expires a day after the last change.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple, Protocol

from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.usage import Run
from celery_dynprio.message import MAX_NUMBER, clean

#: Upper bounds of the buckets in seconds; one more bucket is for longer times.
BOUNDS: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)

#: How many pairs of task and level have histograms of their own; further ones are counted as the task :data:`OTHER`.
MAX_SERIES: Final = 500
OTHER: Final = "other"

#: Seconds for which counts are kept after the last change.
KEPT: Final = 86_400

#: Entries in one call of the script: less than a millisecond of the server's time.
CHUNK: Final = 20


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


class MemoryHistograms:
    """Histograms of this process only: for tests."""

    def __init__(self) -> None:
        self._series: dict[SeriesKey, Series] = {}

    def add(self, runs: Iterable[Run]) -> None:
        """Count these runs."""
        _count(runs, self._series)

    def read(self) -> Mapping[SeriesKey, Series]:
        """Return all counts."""
        return dict(self._series)


class RedisHistograms:
    """Histograms in the broker's Redis, in one hash with a bounded number of fields.

    Raises the errors of redis-py when the broker is away.
    """

    def __init__(self, client: RedisClient, most: int = MAX_SERIES) -> None:
        self._client = client
        self._key = client.app_key("histograms")
        self._most = most
        self._record = client.script("histograms_record")

    def add(self, runs: Iterable[Run]) -> None:
        """Count these runs; those of one task and level are summed up first."""
        series: dict[SeriesKey, Series] = {}
        _count(runs, series)
        entries = iter(series.items())
        while chunk := list(islice(entries, CHUNK)):
            flat: list[Any] = []
            for key, counted in chunk:
                flat += (_field(key), _field(key._replace(task=OTHER)), _text(counted.row()))
            self._record(keys=[self._key], args=[self._most, KEPT, *flat])

    def read(self) -> Mapping[SeriesKey, Series]:
        """Return all counts; anything malformed in Redis is ignored."""
        found: dict[SeriesKey, Series] = {}
        for field, value in self._client.redis.hgetall(self._key).items():
            key, row = _key(field), _row(value)
            if key is not None and row is not None:
                found[key] = Series.of(row)
        return found

    def close(self) -> None:
        """Close the client."""
        self._client.close()


def _count(runs: Iterable[Run], series: dict[SeriesKey, Series]) -> None:
    for run in runs:
        key = SeriesKey(run.name, run.level)
        if key not in series:
            series[key] = Series.empty()
        series[key].add(run)


def _field(key: SeriesKey) -> str:
    return f"{'-' if key.level is None else key.level} {key.task}"


def _key(field: bytes) -> SeriesKey | None:
    level, _, task = field.decode(errors="replace").partition(" ")
    if not task or not (len(level) == 1 and level in "-0123456789"):
        return None
    return SeriesKey(clean(task), None if level == "-" else int(level))


def _text(row: Sequence[float]) -> str:
    return " ".join(f"{number:.9g}" for number in row)


def _row(value: bytes) -> list[float] | None:
    try:
        row = [float(number) for number in value.split()]
    except ValueError:
        return None
    return row if len(row) == ROW and all(0 <= number <= MAX_NUMBER for number in row) else None
