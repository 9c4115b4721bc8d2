"""The shares that operators have set, in one hash in the broker's Redis."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from typing import Final

from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.hashes import Hashes
from celery_dynprio.ports.stores import SetShare

#: Seconds for which a read is reused, so that all queues of one tick share it.
CACHE_SECONDS: Final = 0.5


class RedisShares:
    """Shares as fields of key -> "<share> <until>", where a share that counts for ever is until ``inf``.

    Raises the errors of redis-py when the broker is away.
    """

    def __init__(self, client: RedisClient) -> None:
        self._redis = client.redis
        self._hashes = Hashes(client)
        self._key = client.app_key("shares")
        self._cached: tuple[float, list[SetShare]] = -math.inf, []

    def set(self, share: SetShare, now: float) -> None:
        """Keep it, in the place of another one of its key; what counts no more is dropped."""
        fields = self._redis.hgetall(self._key)
        counting = {each.key.encode() for each in _shares(fields, now)}
        pipe = self._redis.pipeline(transaction=False)
        pipe.hset(self._key, share.key, f"{share.share!r} {math.inf if share.until is None else share.until:.3f}")
        gone = fields.keys() - counting - {share.key.encode()}
        if gone:
            pipe.hdel(self._key, *gone)
        pipe.execute()
        self._cached = -math.inf, []

    def remove(self, key: str) -> bool:
        """Drop the share of a key; return whether there was one."""
        self._cached = -math.inf, []
        return bool(self._redis.hdel(self._key, key))

    def read(self, now: float) -> list[SetShare]:
        """Return those that count ``now`` (Unix seconds), sorted by key; anything malformed in Redis is ignored."""
        read_at = time.monotonic()
        if read_at - self._cached[0] > CACHE_SECONDS:
            (fields,) = self._hashes.read(self._key)
            self._cached = read_at, sorted(_shares(fields, now))
        return self._cached[1]


def _shares(fields: Mapping[bytes, bytes], now: float) -> Iterator[SetShare]:
    for field, value in fields.items():
        try:
            share, until = map(float, value.split())
            key = field.decode()
        except ValueError:  # also UnicodeDecodeError
            continue
        if 0 < share < math.inf and now < until:
            yield SetShare(key, share, None if until == math.inf else until)
