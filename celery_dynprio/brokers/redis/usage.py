"""Learned runtimes and use, as they are kept in the broker's Redis.

There is a use of worker time for each key, a mean runtime for each task name, and for each name and each key of it how
many runs there were, how long they took and how much that varies. All decay with a half-life, as in Slurm's multifactor
plugin (``PriorityDecayHalfLife``), so that recent runs count most.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable
from typing import Final

from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.hashes import Hashes
from celery_dynprio.brokers.redis.learned import SEPARATOR, Learned
from celery_dynprio.chunks import chunks
from celery_dynprio.models import Run
from celery_dynprio.ports.stores import MAX_REMEMBERED, UsageFigures

#: So many of the latest changes are kept for those that read.
MAX_CHANGES: Final = 512

#: Entries in one call of the script: less than a millisecond of the server's time.
CHUNK: Final = 50

#: Seconds for which a read is reused, so that all queues of one tick share it.
CACHE_SECONDS: Final = 0.1

#: Whole reads take in about so many entries a second. In between only changes are read, which workers of an older
#: version do not tell: what these measure is known the later the more there is.
WHOLE_READS: Final = 200.0


class RedisUsage:
    """Learned use in small hashes in the broker's Redis, so that all processes share it and it survives restarts.

    ``half_life`` is in seconds. Raises the errors of redis-py when the broker is away.
    """

    def __init__(self, client: RedisClient, half_life: float = 600.0) -> None:
        self._client = client
        self._half_life = half_life
        self._keys = [client.app_key(each) for each in ("use", "runtimes", "spreads", "usage_changes")]
        self._record = client.script("use_record")
        self._hashes = Hashes(client)
        self._learned = Learned(half_life)
        #: The number of the last change that is known, and when all was read (monotonic); None if never.
        self._last: int | None = None
        self._whole = -math.inf
        self._cached: tuple[float, UsageFigures] | None = None

    def add(self, runs: Iterable[Run]) -> None:
        """Learn from these runs, as of now by the server's clock."""
        pairs: dict[tuple[str, str], list[float]] = {}
        for run in runs:
            pair, seconds = (run.name, run.key), run.seconds
            known = pairs.get(pair)
            if known is None:
                pairs[pair] = [seconds, 1, seconds * seconds]
            else:
                known[0] += seconds
                known[1] += 1
                known[2] += seconds * seconds
        totals: dict[tuple[int, str], list[float]] = {}
        for pair, (seconds, count, squares) in pairs.items():
            for entry in _entries(*pair):
                total = totals.setdefault(entry, [0.0, 0, 0.0])
                total[0] += seconds
                total[1] += count
                total[2] += squares
        for chunk in chunks(totals.items(), CHUNK):
            entries = json.dumps([(*entry, *total) for entry, total in chunk])  # as arguments they would take longer
            self._record(keys=self._keys, args=[self._half_life, MAX_REMEMBERED, MAX_CHANGES, entries])

    def read(self, now: float) -> UsageFigures:
        """Return learned runtimes, and decayed use in seconds by key, as of ``now`` (Unix seconds).

        Anything malformed in Redis is ignored.
        """
        read_at = time.monotonic()
        if self._cached is None or read_at - self._cached[0] > CACHE_SECONDS:
            if read_at - self._whole > len(self._learned) / WHOLE_READS or not self._follow(now):
                self._read_all(now)
                self._whole = read_at
            self._cached = read_at, self._learned.figures(now)
        return self._cached[1]

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def _read_all(self, now: float) -> None:
        # The number first: a change that is read twice does no harm.
        self._last = _number(self._hashes.field(self._keys[3], "n"))
        hashes = self._hashes.read(*self._keys[:3])
        self._learned.replace(hashes, now)

    def _follow(self, now: float) -> bool:
        """Take in what changed; whether that is all there was to know."""
        known, last = self._last, _number(self._hashes.field(self._keys[3], "n"))
        if known is None or last is None or not 0 <= last - known < MAX_CHANGES:
            return False
        wanted = range(known + 1, last + 1)
        slots = [str(number % MAX_CHANGES) for number in wanted]
        changes = self._hashes.fields(self._keys[3], slots) if slots else []
        self._last = last
        return all(self._learned.take(number, change, now) for number, change in zip(wanted, changes, strict=True))


def _entries(name: str, key: str) -> Iterable[tuple[int, str]]:
    """Where a run of this task and key counts: the index of a key of the script, and a field."""
    yield 1, key
    yield 2, name
    yield 3, name + SEPARATOR
    if key:
        yield 3, name + SEPARATOR + key


def _number(value: bytes | None) -> int | None:
    try:
        return int(value or b"")
    except ValueError:
        return None
