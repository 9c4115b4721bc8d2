"""Learned runtimes and use: what they are, how they decay, and where they are kept.

There is a mean runtime for each task name, and a use of worker time for each key. Both decay with a half-life, as in
Slurm's multifactor plugin (``PriorityDecayHalfLife``), so that recent runs count most.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from celery_dynprio.brokers.redis.client import RedisClient

#: How many keys and how many task names are remembered; beyond that, some of the least used are forgotten.
MAX_REMEMBERED: Final = 10_000

#: Entries in one call of the script: less than a millisecond of the server's time.
CHUNK: Final = 50

#: Seconds for which a read is reused, so that all queues of one tick share it.
CACHE_SECONDS: Final = 0.5

#: Runtimes in seconds by task name, and decayed use in seconds by key.
Learnt: TypeAlias = tuple[Mapping[str, float], Mapping[str, float]]


class Run(NamedTuple):
    """One run of a task, as a worker measured it."""

    name: str
    #: The fairness key; "" for a task that has none.
    key: str
    seconds: float
    #: For histograms only; None if unknown: the level from which a worker took it, how long it had waited (seconds),
    #: and whether it started in time for its deadline.
    level: int | None = None
    wait: float | None = None
    in_time: bool | None = None


class Usage(Protocol):
    """A store of learned runtimes and use."""

    def add(self, runs: Iterable[Run]) -> None:
        """Learn from these runs."""

    def read(self, now: float) -> Learnt:
        """Return mean runtimes in seconds by name, and decayed use in seconds by key, as of ``now`` (Unix seconds)."""


class _Mean(NamedTuple):
    """Decayed seconds and decayed number of runs, as of ``at`` (Unix seconds)."""

    seconds: float
    runs: float
    at: float

    def share(self, now: float, half_life: float) -> float:
        return float(2.0 ** (min(self.at - now, 0.0) / half_life))

    def plus(self, seconds: float, now: float, half_life: float) -> _Mean:
        share = self.share(now, half_life)
        return _Mean(self.seconds * share + seconds, self.runs * share + 1, now)


class MemoryUsage:
    """Learned use in this process only: for tests and simulations. ``half_life`` is in seconds."""

    def __init__(self, half_life: float = 600.0, clock: Callable[[], float] = time.time) -> None:
        self._half_life = half_life
        self._clock = clock
        self._use: dict[str, _Mean] = {}
        self._runtimes: dict[str, _Mean] = {}

    def add(self, runs: Iterable[Run]) -> None:
        """Learn from these runs, as of now."""
        now = self._clock()
        nothing = _Mean(0.0, 0.0, now)
        for run in runs:
            for means, field in ((self._use, run.key), (self._runtimes, run.name)):
                means[field] = means.get(field, nothing).plus(run.seconds, now, self._half_life)

    def read(self, now: float) -> Learnt:
        """Return mean runtimes in seconds by name, and decayed use in seconds by key, as of ``now`` (Unix seconds)."""
        return _learnt(self._runtimes.items(), self._use.items(), now, self._half_life)


class RedisUsage:
    """Learned use in two small hashes in the broker's Redis, so that all processes share it and it survives restarts.

    ``half_life`` is in seconds. Raises the errors of redis-py when the broker is away.
    """

    def __init__(self, client: RedisClient, half_life: float = 600.0) -> None:
        self._client = client
        self._half_life = half_life
        self._keys = [client.app_key("use"), client.app_key("runtimes")]
        self._record = client.script("use_record")
        self._cached: tuple[float, Learnt] | None = None

    def add(self, runs: Iterable[Run]) -> None:
        """Learn from these runs, as of now by the server's clock."""
        totals: dict[tuple[int, str], list[float]] = {}
        for run in runs:
            for entry in ((1, run.key), (2, run.name)):
                total = totals.setdefault(entry, [0.0, 0])
                total[0] += run.seconds
                total[1] += 1
        entries = iter(totals.items())
        while chunk := list(islice(entries, CHUNK)):
            flat: list[Any] = [value for (index, field), total in chunk for value in (index, field, *total)]
            self._record(keys=self._keys, args=[self._half_life, MAX_REMEMBERED, *flat])

    def read(self, now: float) -> Learnt:
        """Return mean runtimes in seconds by name, and decayed use in seconds by key, as of ``now`` (Unix seconds).

        Anything malformed in Redis is ignored.
        """
        read_at = time.monotonic()
        if self._cached is None or read_at - self._cached[0] > CACHE_SECONDS:
            pipe = self._client.redis.pipeline(transaction=False)
            for key in self._keys:
                pipe.hgetall(key)
            use, runtimes = pipe.execute()
            self._cached = read_at, _learnt(_means(runtimes), _means(use), now, self._half_life)
        return self._cached[1]

    def close(self) -> None:
        """Close the client."""
        self._client.close()


def _learnt(
    runtimes: Iterable[tuple[str, _Mean]], use: Iterable[tuple[str, _Mean]], now: float, half_life: float
) -> Learnt:
    means = {name: mean.seconds / mean.runs for name, mean in runtimes}
    return means, {key: mean.seconds * mean.share(now, half_life) for key, mean in use}


def _means(fields: Mapping[bytes, bytes]) -> Iterator[tuple[str, _Mean]]:
    for field, value in fields.items():
        try:
            seconds, runs, at = map(float, value.split())
            name = field.decode()
        except ValueError:  # also UnicodeDecodeError
            continue
        if 0 <= seconds < math.inf and 0 < runs < math.inf and math.isfinite(at):
            yield name, _Mean(seconds, runs, at)
