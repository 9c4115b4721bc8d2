"""What runs now, in one hash in the broker's Redis."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.hashes import Hashes
from celery_dynprio.chunks import chunks
from celery_dynprio.models import RunningTask
from celery_dynprio.ports.stores import MAX_RUNNING, RUNNING_TTL

#: Runs in one call of the script: less than a millisecond of the server's time.
CHUNK: Final = 50

#: Seconds for which a read is reused, so that all queues of one tick share it.
CACHE_SECONDS: Final = 0.5


class RedisRunning:
    """What runs now, as workers tell; ``ttl`` (seconds) is as in the port.

    Raises the errors of redis-py when the broker is away.
    """

    def __init__(self, client: RedisClient, ttl: float = RUNNING_TTL) -> None:
        self._client = client
        self._ttl = ttl
        self._key = client.app_key("running")
        self._start = client.script("running_start")
        self._hashes = Hashes(client)
        self._cached: tuple[float, Sequence[RunningTask]] = -math.inf, ()

    def start(self, runs: Iterable[RunningTask], now: float) -> None:
        """Count these as running, from when they started by a clock at which it is ``now``; also again."""
        for chunk in chunks(runs, CHUNK):
            flat = [
                value
                for run in chunk
                for value in (run.id, max(now - run.started, 0.0), json.dumps([run.name, run.key]))
            ]
            self._start(keys=[self._key], args=[self._ttl, MAX_RUNNING, *flat])

    def end(self, ids: Iterable[str]) -> None:
        """Count these as running no more."""
        for chunk in chunks(ids, CHUNK):
            self._client.redis.hdel(self._key, *chunk)

    def read(self, now: float) -> Sequence[RunningTask]:
        """Return what runs ``now`` (Unix seconds); anything malformed in Redis is ignored."""
        read_at = time.monotonic()
        if read_at - self._cached[0] > CACHE_SECONDS:
            (fields,) = self._hashes.read(self._key)
            self._cached = read_at, list(_runs(fields, now))
        return self._cached[1]

    def close(self) -> None:
        """Close the client."""
        self._client.close()


def _runs(fields: Mapping[bytes, bytes], now: float) -> Iterator[RunningTask]:
    for run_id, value in fields.items():
        try:
            started, until, what = value.split(b" ", 2)
            name, key = json.loads(what)
            run = RunningTask(run_id.decode(), name, key, float(started))
            counts = now < float(until) <= math.inf and math.isfinite(run.started)
        except (ValueError, TypeError, RecursionError):  # also UnicodeDecodeError
            continue
        if counts and isinstance(name, str) and isinstance(key, str):
            yield run
