"""Pending messages as they lie in Redis, for tests that count them."""

from __future__ import annotations

import base64
import json
from collections import Counter
from typing import Any, cast

import redis


def pending(client: redis.Redis, queue: str = "celery") -> list[dict[str, Any]]:
    """Every message of a queue, in the front and parked."""
    keys = [queue, *(f"{queue}\x06\x16{priority}" for priority in range(1, 10))]
    reading = client.pipeline(transaction=True)  # whoever moves them meanwhile
    for key in keys:
        reading.lrange(key, 0, -1)
    for what in ("overflow", "held"):
        reading.hvals(f"dynprio:{queue}:{what}")
    return [json.loads(raw) for raws in cast("list[list[bytes]]", reading.execute()) for raw in raws]


def unacknowledged(client: redis.Redis) -> list[dict[str, Any]]:
    """Every task that workers have and did not acknowledge.

    kombu notes an answer to remote control there, too, for a moment: one that came too late for whoever asked.
    """
    messages = [json.loads(raw)[0] for raw in cast("list[bytes]", client.hvals("unacked"))]
    return [message for message in messages if "task" in message["headers"]]


def numbers(messages: list[dict[str, Any]]) -> Counter[int]:
    """How often each number, the first argument of a task, is among these messages."""
    return Counter(json.loads(base64.b64decode(message["body"]))[0][0] for message in messages)
