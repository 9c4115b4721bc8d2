"""How many messages of managed queues wait in each place, and whether any do."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.keys import parked_keys
from celery_dynprio.chunks import chunks
from celery_dynprio.models import HELD, Place

#: Keys in one command that asks whether any of them exists: less than a millisecond of the server's time.
KEYS_AT_ONCE: Final = 1000


def count_places(client: RedisClient, queues: Iterable[str]) -> dict[str, dict[Place, int]]:
    """Messages in each place of these queues; one round trip, whatever waits."""
    pipe = client.redis.pipeline(transaction=False)
    places: list[tuple[str, Place]] = []
    for queue in queues:
        for level in client.scale.levels:
            pipe.llen(client.level_key(queue, level))
            places.append((queue, level))
        for place, key in parked_keys(client, queue).items():
            pipe.hlen(key)
            places.append((queue, place))
    found: dict[str, dict[Place, int]] = {}
    for (queue, place), count in zip(places, pipe.execute(), strict=True):
        found.setdefault(queue, {})[place] = int(count)
    return found


def occupied_queues(client: RedisClient, queues: Collection[str]) -> set[str]:
    """Those of these queues that have messages, the held ones aside; one round trip if none has any, otherwise two."""
    keys = {queue: _keys(client, queue) for queue in queues}
    size = max(KEYS_AT_ONCE // max(map(len, keys.values()), default=1), 1)
    parts = list(chunks(queues, size))
    pipe = client.redis.pipeline(transaction=False)
    for part in parts:
        pipe.exists(*(key for queue in part for key in keys[queue]))
    suspects = [queue for part, found in zip(parts, pipe.execute(), strict=True) if found for queue in part]
    for queue in suspects:
        pipe.exists(*keys[queue])
    return {queue for queue, found in zip(suspects, pipe.execute(), strict=True) if found}


def _keys(client: RedisClient, queue: str) -> list[str]:
    parked = (key for place, key in parked_keys(client, queue).items() if place != HELD)
    return [*(client.level_key(queue, level) for level in client.scale.levels), *parked]
