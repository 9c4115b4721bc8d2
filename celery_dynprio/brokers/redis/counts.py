"""How many messages of managed queues wait in each place."""

from __future__ import annotations

from collections.abc import Iterable

from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.keys import parked_keys
from celery_dynprio.models import Place


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
