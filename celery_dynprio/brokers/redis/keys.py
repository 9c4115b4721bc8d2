"""The keys of one managed queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_dynprio.models import CANCELLED, HELD, OVERFLOW, Place

if TYPE_CHECKING:
    from celery_dynprio.brokers.redis.client import RedisClient


@dataclass(frozen=True, slots=True)
class QueueKeys:
    """Where Redis keeps what belongs to one managed queue."""

    queue: str
    #: The list of each level; kombu's own.
    levels: Sequence[str]
    #: The hash of each parked place.
    parked: Mapping[Place, str]
    lease: str
    #: Counts the moves that were ever made.
    moves: str
    #: The log of operations, of all queues.
    audit: str

    @classmethod
    def of(cls, client: RedisClient, queue: str) -> QueueKeys:
        """Return the keys of this queue."""
        return cls(
            queue,
            [client.level_key(queue, level) for level in client.scale.levels],
            parked_keys(client, queue),
            client.queue_key(queue, "lease"),
            client.queue_key(queue, "moves"),
            client.app_key("audit"),
        )


def parked_keys(client: RedisClient, queue: str) -> dict[Place, str]:
    """Return the hashes of a queue's parked messages."""
    names = {OVERFLOW: "overflow", HELD: "held", CANCELLED: "cancelled"}
    return {place: client.queue_key(queue, name) for place, name in names.items()}
