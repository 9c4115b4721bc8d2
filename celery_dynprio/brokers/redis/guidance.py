"""What leaders tell producers, in two kinds of small keys that expire.

Each queue has its bands in one. The figures, which are the same for all queues of an app, are in another, so that an
app with many queues writes and reads them once. Which levels may be used is read from where leaders keep it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.usable import LEVELS_KEY, said_in
from celery_dynprio.levels import Bands
from celery_dynprio.ports.guidance import EXPIRY, PUBLISH_INTERVAL, Guidance
from celery_dynprio.runtimes import Runtimes, Sums
from celery_dynprio.untrusted import number

#: The format of the keys. A reader takes what has another number for absent.
VERSION: Final = 1

#: A key that is larger (bytes) is not ours.
MAX_BYTES: Final = 1_000_000


class RedisGuidance:
    """The guidance of all queues of one broker; ``expiry`` is in seconds.

    Raises the errors of redis-py when the broker is away.
    """

    def __init__(
        self, client: RedisClient, expiry: float = EXPIRY, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._milliseconds = int(expiry * 1000)
        self._figures_key = client.app_key("guidance")
        self._clock = clock
        self._figures_written = -math.inf

    def publish(self, queue: str, guidance: Guidance) -> None:
        """Replace what is known of this queue; the figures once in :data:`PUBLISH_INTERVAL` for all queues."""
        pipe = self._client.redis.pipeline(transaction=False)
        bands = guidance.bands
        guidance = guidance.bounded()
        row = _text(bands=[bands.low, bands.high, bands.count], waiting=_rounded(guidance.waiting))
        pipe.set(self._bands_key(queue), row, px=self._milliseconds)
        now = self._clock()
        if now - self._figures_written >= PUBLISH_INTERVAL:
            pipe.set(self._figures_key, _text(**_figures(guidance)), px=self._milliseconds)
            self._figures_written = now
        pipe.execute()

    def read(self, queues: Collection[str]) -> Mapping[str, Guidance]:
        """Return the guidance of these queues; anything malformed in Redis is taken for absent."""
        if not queues:
            return {}
        levels_keys = (self._client.queue_key(queue, LEVELS_KEY) for queue in queues)
        figures, *rest = self._client.redis.mget(self._figures_key, *map(self._bands_key, queues), *levels_keys)
        rows = map(_object, rest[: len(queues)])
        usable = (said_in(raw, self._client.scale) for raw in rest[len(queues) :])
        common = _object(figures)
        runtimes = _runtimes(common)
        use, running, shares = (_numbers(common.get(each)) for each in ("use", "running", "shares"))
        found = {}
        for queue, row, levels in zip(queues, rows, usable, strict=True):
            bands = _bands(row.get("bands"))
            if bands is not None:
                found[queue] = Guidance(bands, runtimes, use, running, _numbers(row.get("waiting")), shares, levels)
        return found

    def _bands_key(self, queue: str) -> str:
        return self._client.queue_key(queue, "guidance")


def _text(**fields: Any) -> str:
    return json.dumps({"v": VERSION, **fields}, separators=(",", ":"), ensure_ascii=False)


def _object(raw: bytes | None) -> dict[str, Any]:
    """The object in a key; an empty one if there is none of this version."""
    if raw is None or len(raw) > MAX_BYTES:
        return {}
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and found.get("v") == VERSION else {}


def _bands(found: Any) -> Bands | None:
    match found:
        case [low, high, int(count)] if 0 <= number(low, -1.0) < number(high, -1.0) <= 1 and count > 0:
            return Bands(number(low), number(high), count)
    return None


def _figures(guidance: Guidance) -> dict[str, Any]:
    runtimes = guidance.runtimes
    return {
        "means": _rounded(dict(runtimes)),
        "names": {name: _short(sums) for name, sums in runtimes.names.items()},
        "pairs": [[*pair, *_short(sums)] for pair, sums in runtimes.pairs.items()],
        "use": _rounded(guidance.use),
        "running": _rounded(guidance.running),
        "shares": _rounded(guidance.shares),
    }


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return dict(zip(figures, _short(figures.values()), strict=True))


def _short(figures: Iterable[float]) -> list[float]:
    """The numbers with four digits: they are estimates."""
    return [float(f"{each:.4g}") for each in figures]


def _runtimes(found: Mapping[str, Any]) -> Runtimes:
    names, pairs = found.get("names"), found.get("pairs")
    rows = [(name, _sums(row)) for name, row in names.items()] if isinstance(names, dict) else []
    by_pair = [_pair(row) for row in pairs] if isinstance(pairs, list) else []
    return Runtimes(
        _numbers(found.get("means")), {name: sums for name, sums in rows if sums}, dict(filter(None, by_pair))
    )


def _pair(row: Any) -> tuple[tuple[str, str], Sums] | None:
    match row:
        case [str(name), str(key), *figures] if (sums := _sums(figures)) is not None:
            return (name, key), sums
    return None


def _sums(row: Any) -> Sums | None:
    if not isinstance(row, list) or len(row) != len(Sums._fields):
        return None
    figures = [number(each) for each in row]
    return None if None in figures else Sums(*figures)


def _numbers(found: Any) -> dict[str, float]:
    if not isinstance(found, dict):
        return {}
    return {name: value for name, each in found.items() if (value := number(each)) is not None}
