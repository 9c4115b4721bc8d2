"""Learned runtimes and use: what they are, how they decay, and where they are kept.

There is a mean runtime for each task name, and a use of worker time for each key. Both decay with a half-life, as in
Slurm's multifactor plugin (``PriorityDecayHalfLife``), so that recent runs count most.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.chunks import chunks
from celery_dynprio.models import Run
from celery_dynprio.policies.decay import DecayedMean
from celery_dynprio.ports.stores import UsageFigures

#: How many keys and how many task names are remembered; beyond that, some of the least used are forgotten.
MAX_REMEMBERED: Final = 10_000

#: Entries in one call of the script: less than a millisecond of the server's time.
CHUNK: Final = 50

#: Seconds for which a read is reused, so that all queues of one tick share it.
CACHE_SECONDS: Final = 0.5


class RedisUsage:
    """Learned use in two small hashes in the broker's Redis, so that all processes share it and it survives restarts.

    ``half_life`` is in seconds. Raises the errors of redis-py when the broker is away.
    """

    def __init__(self, client: RedisClient, half_life: float = 600.0) -> None:
        self._client = client
        self._half_life = half_life
        self._keys = [client.app_key("use"), client.app_key("runtimes")]
        self._record = client.script("use_record")
        self._cached: tuple[float, UsageFigures] | None = None

    def add(self, runs: Iterable[Run]) -> None:
        """Learn from these runs, as of now by the server's clock."""
        totals: dict[tuple[int, str], list[float]] = {}
        for run in runs:
            for entry in ((1, run.key), (2, run.name)):
                total = totals.setdefault(entry, [0.0, 0])
                total[0] += run.seconds
                total[1] += 1
        for chunk in chunks(totals.items(), CHUNK):
            flat: list[Any] = [value for (index, field), total in chunk for value in (index, field, *total)]
            self._record(keys=self._keys, args=[self._half_life, MAX_REMEMBERED, *flat])

    def read(self, now: float) -> UsageFigures:
        """Return mean runtimes in seconds by name, and decayed use in seconds by key, as of ``now`` (Unix seconds).

        Anything malformed in Redis is ignored.
        """
        read_at = time.monotonic()
        if self._cached is None or read_at - self._cached[0] > CACHE_SECONDS:
            pipe = self._client.redis.pipeline(transaction=False)
            for key in self._keys:
                pipe.hgetall(key)
            use, runtimes = pipe.execute()
            self._cached = read_at, UsageFigures.as_of(now, self._half_life, dict(_means(runtimes)), dict(_means(use)))
        return self._cached[1]

    def close(self) -> None:
        """Close the client."""
        self._client.close()


def _means(fields: Mapping[bytes, bytes]) -> Iterator[tuple[str, DecayedMean]]:
    for field, value in fields.items():
        try:
            seconds, runs, at = map(float, value.split())
            name = field.decode()
        except ValueError:  # also UnicodeDecodeError
            continue
        if 0 <= seconds < math.inf and 0 < runs < math.inf and math.isfinite(at):
            yield name, DecayedMean(seconds, runs, at)
