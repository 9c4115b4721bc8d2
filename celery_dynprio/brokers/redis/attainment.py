"""Counts for objectives, in the broker's Redis: workers count starts, reprioritizers judge.

Starts are counted in slots of a twentieth of the window. Each slot is a small hash that expires.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, Final

from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.hashes import Hashes
from celery_dynprio.models import Start
from celery_dynprio.objectives import Names, Objective, Standing, globs

#: Slots of a window.
SLOTS: Final = 20

#: The present rate of starts is that of the last tenth of the window, or of this many seconds if that is more, because
#: workers report starts a second or more later.
SHORTEST_RECENT: Final = 5.0

#: Seconds for which a leader's last count of overdue tasks is valid; two intervals if that is more.
FRESH: Final = 30.0

#: Seconds for which a breach is remembered while no reprioritizer judges.
KEPT: Final = 86_400

#: No count has more digits: Redis counts with 64 bits.
MAX_DIGITS: Final = 19


class RedisAttainment:
    """Counts and breaches of some objectives. Raises the errors of redis-py when the broker is away.

    If a promise is changed, counting starts anew. ``clock`` gives Unix seconds, ``interval`` is the seconds between two
    ticks.
    """

    def __init__(
        self,
        client: RedisClient,
        objectives: Sequence[Objective],
        clock: Callable[[], float] | None = None,
        interval: float = 1.0,
    ) -> None:
        self._client = client
        self._redis = client.redis
        self._objectives = objectives
        self._names = Names([objective.match for objective in objectives])
        self._ids = [_id(objective) for objective in objectives]
        self._hashes = Hashes(client)
        self._shared = client.app_key("objectives")
        self._clock = clock or time.time
        self._fresh = max(FRESH, 2 * interval)

    def add(self, starts: Iterable[Start]) -> None:
        """Count tasks that have just started."""
        now = self._clock()
        counts: Counter[tuple[int, str]] = Counter()
        for start in starts:
            for index in self._names.matching(start.name):
                counts[index, "started"] += 1
                counts[index, "in_time"] += start.wait <= self._objectives[index].within
        pipe = self._redis.pipeline(transaction=False)
        for (index, field), count in counts.items():
            key = self._slot(index, _slot_at(self._objectives[index], now))
            pipe.hincrby(key, field, count)
            pipe.expire(key, math.ceil(2 * self._objectives[index].window))
        pipe.execute()

    def tell(self, queue: str, overdue: Mapping[int, int]) -> None:
        """Store how many tasks of one queue are overdue, by the index of the objective."""
        now = self._clock()
        fields = [(f"{each} {queue}", f"{overdue.get(index, 0)} {now:.3f}") for index, each in enumerate(self._ids)]
        self._hashes.ask(("HSET", self._shared, *chain(*fields)), ("EXPIRE", self._shared, KEPT))

    def read(self) -> list[Standing]:
        """Return the state of all objectives; anything malformed in Redis counts as absent."""
        now = self._clock()
        newest = [_slot_at(objective, now) for objective in self._objectives]
        keys = [self._slot(index, last - ago) for index, last in enumerate(newest) for ago in range(SLOTS, -1, -1)]
        shared, *found = self._hashes.ask(
            ("HGETALL", self._shared), *(("HMGET", key, "started", "in_time") for key in keys)
        )
        slots = [each or (None, None) for each in found]
        return [
            self._standing(index, shared or {}, slots[index * (SLOTS + 1) : (index + 1) * (SLOTS + 1)], now)
            for index in range(len(self._objectives))
        ]

    def turn(self, standing: Standing) -> Standing | None:
        """Store a breach or a recovery; None if another reprioritizer was first."""
        now, ends, field = self._clock(), standing.since is not None, _breach(standing.objective)
        command = ("HDEL", self._shared, field) if ends else ("HSETNX", self._shared, field, f"{now:.3f}")
        return replace(standing, since=None if ends else now) if self._hashes.ask(command)[0] else None

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def _slot(self, index: int, slot: int) -> str:
        return self._client.app_key(f"objective:{self._ids[index]}:{slot}")

    def _standing(
        self, index: int, shared: Mapping[bytes, bytes], slots: Sequence[Sequence[Any]], now: float
    ) -> Standing:
        prefix = self._ids[index].encode()
        overdue = 0
        for field, value in shared.items():
            if field.startswith(prefix + b" "):
                count, _, at = value.partition(b" ")
                overdue += _count(count) if now - _number(at) <= self._fresh else 0
        started, in_time = (sum(_count(slot[column]) for slot in slots) for column in (0, 1))
        noted = shared.get(_breach(self._objectives[index]).encode())
        since = None if noted is None else _number(noted)
        objective = self._objectives[index]
        return Standing(objective, started, min(in_time, started), overdue, since, _rate(objective, slots))


def _id(objective: Objective) -> str:
    promise = (objective.name, globs(objective.match), float(objective.within), float(objective.window))
    return hashlib.sha256(repr(promise).encode()).hexdigest()[:16]


def _breach(objective: Objective) -> str:
    """The field of a breach; the target is part of it, so old and new targets stay apart during a rollout."""
    return f"{_id(objective)}:{float(objective.target)!r}"


def _slot_at(objective: Objective, now: float) -> int:
    return int(now * SLOTS / objective.window)


def _rate(objective: Objective, slots: Sequence[Sequence[Any]]) -> float:
    """Starts per second in the newest slots, of which the last one has only begun."""
    seconds = objective.window / SLOTS
    newest = min(math.ceil(max(objective.window / 10, SHORTEST_RECENT) / seconds), SLOTS)
    return sum(_count(started) for started, _ in slots[-newest - 1 :]) / (newest * seconds)


def _count(value: bytes | None) -> int:
    return int(value) if value is not None and value.isdigit() and len(value) <= MAX_DIGITS else 0


def _number(value: bytes) -> float:
    try:
        number = float(value)
    except ValueError:
        return 0.0
    return number if math.isfinite(number) else 0.0
