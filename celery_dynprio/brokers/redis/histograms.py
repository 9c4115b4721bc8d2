"""Histograms of how long tasks waited and ran, by task and level: workers count, monitoring shows them.

Workers add their counts to one small hash in the broker, so monitoring need not ask the workers. The counts only grow,
as Prometheus expects of counters. The hash expires a day after the last change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.hashes import Hashes
from celery_dynprio.chunks import chunks
from celery_dynprio.models import Run
from celery_dynprio.ports.histograms import OTHER, ROW, Series, SeriesKey, count_runs
from celery_dynprio.untrusted import MAX_NUMBER, clean

#: How many pairs of task and level have histograms of their own; further ones are counted as the task :data:`OTHER`.
MAX_SERIES: Final = 500

#: Seconds for which counts are kept after the last change.
KEPT: Final = 86_400

#: Entries in one call of the script: less than a millisecond of the server's time.
CHUNK: Final = 20


class RedisHistograms:
    """Histograms in the broker's Redis, in one hash with a bounded number of fields.

    Raises the errors of redis-py when the broker is away.
    """

    def __init__(self, client: RedisClient, most: int = MAX_SERIES) -> None:
        self._client = client
        self._key = client.app_key("histograms")
        self._hashes = Hashes(client)
        self._most = most
        self._record = client.script("histograms_record")

    def add(self, runs: Iterable[Run]) -> None:
        """Count these runs; those of one task and level are summed up first."""
        series: dict[SeriesKey, Series] = {}
        count_runs(runs, series)
        for chunk in chunks(series.items(), CHUNK):
            flat: list[Any] = []
            for key, counted in chunk:
                flat += (_field(key), _field(key._replace(task=OTHER)), _text(counted.row()))
            self._record(keys=[self._key], args=[self._most, KEPT, *flat])

    def read(self) -> Mapping[SeriesKey, Series]:
        """Return all counts; anything malformed in Redis is ignored."""
        found: dict[SeriesKey, Series] = {}
        for field, value in self._hashes.read(self._key)[0].items():
            key, row = _key(field), _row(value)
            if key is not None and row is not None:
                found[key] = Series.of(row)
        return found

    def close(self) -> None:
        """Close the client."""
        self._client.close()


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
