"""How many records of runs may be missing in the trace store: workers count them, monitoring shows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from celery_dynprio.brokers.redis.client import RedisClient

#: Why a record was dropped: its trace was full, or a worker had no answer.
CAUSES: Final = ("no_room", "not_sent")

#: Seconds for which counts are kept that nobody adds to.
KEPT: Final = 86_400

#: A count with more digits is none of ours.
MAX_DIGITS: Final = 15


class RedisDropped:
    """The counts in the broker's Redis, in one small hash; raises what redis-py raises when the broker is away."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._key = client.app_key("spans_dropped")
        self._told: Counter[str] = Counter()

    def tell(self, totals: Mapping[str, int]) -> None:
        """Add by how much the totals of this process, by cause, have grown since it last told them.

        What is told without an answer is told again, and may count twice.
        """
        grown = {cause: total - self._told[cause] for cause, total in totals.items() if total > self._told[cause]}
        if grown:
            pipe = self._client.redis.pipeline()
            for cause, count in grown.items():
                pipe.hincrby(self._key, cause, count)
            pipe.expire(self._key, KEPT)
            answers = pipe.execute(raise_on_error=False)
            errors = [answer for answer in answers if isinstance(answer, Exception)]
            for cause, answer in zip(grown, answers, strict=False):
                if not isinstance(answer, Exception):
                    self._told[cause] = totals[cause]
            if errors:
                raise errors[0]

    def read(self) -> Mapping[str, int]:
        """The counts of all processes by cause; what in Redis is not as :meth:`tell` writes it counts as 0."""
        values = self._client.redis.hmget(self._key, CAUSES)
        return {cause: _count(value) for cause, value in zip(CAUSES, values, strict=True)}

    def close(self) -> None:
        """Close the connection that this was given."""
        self._client.close()


def _count(value: bytes | None) -> int:
    return int(value) if value is not None and value.isdigit() and len(value) <= MAX_DIGITS else 0
