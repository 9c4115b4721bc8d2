"""A backlog to measure with, and how long the server was busy with single commands meanwhile."""

from __future__ import annotations

import base64
import json
import multiprocessing
import multiprocessing.synchronize
import time
from functools import cache
from typing import Any
from uuid import UUID

import redis

from celery_dynprio.brokers.redis.client import RedisClient

#: Letters of the text that a task is published with: the whole message has about 1 KB.
LETTERS = 300


@cache
def _body(letters: int) -> str:
    """What Celery would publish."""
    return base64.b64encode(json.dumps([["x" * letters], {}, {"callbacks": None, "errbacks": None}]).encode()).decode()


def message(number: int, level: int, weight: int, key: int | None = None, letters: int = LETTERS) -> bytes:
    task_id = str(UUID(int=number))
    headers = {
        "lang": "py",
        "task": f"shop.task{number % 20}",
        "id": task_id,
        "argsrepr": "()",
        "kwargsrepr": "{}",
        "origin": "bench",
        "dynprio": {"at": time.time() - 1, "w": weight, "key": f"tenant {number % 97 if key is None else key}"},
    }
    delivery = {"exchange": "", "routing_key": "celery"}
    properties = {
        "priority": level,
        "delivery_tag": task_id,
        "delivery_info": delivery,
        "body_encoding": "base64",
    }
    kind = {"content-type": "application/json", "content-encoding": "utf-8"}
    return json.dumps({"body": _body(letters), **kind, "headers": headers, "properties": properties}).encode()


def fill(client: RedisClient, size: int, letters: int = LETTERS) -> None:
    for start in range(0, size, 1000):
        pipe = client.redis.pipeline(transaction=False)
        for number in range(start, min(start + 1000, size)):
            level = number % 10
            pipe.lpush(client.level_key("celery", level), message(number, level, number * 7 % 11, letters=letters))
        pipe.execute()


class Watch:
    """Looks at the server from another process, from now on until :meth:`stop`."""

    def __init__(self, client: RedisClient, port: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._client = client
        self._stop, self._longest = context.Event(), context.Value("d", 0.0)
        self._probe = context.Process(target=_probe, args=(port, self._stop, self._longest))
        self._probe.start()
        client.redis.config_set("save", "")  # a fork of the server would be measured too
        client.redis.config_set("slowlog-log-slower-than", 1000)
        client.redis.config_set("slowlog-max-len", 10_000)
        client.redis.slowlog_reset()

    def stop(self) -> dict[str, Any]:
        """Tell what was seen."""
        slow = [entry for entry in self._client.redis.slowlog_get(10_000) if b"SHUTDOWN" not in entry["command"]]
        self._stop.set()
        self._probe.join()
        return {
            "longest command, ms": _longest(slow),
            "longest wait of another client, ms": round(self._longest.value * 1000, 2),
        }


def _longest(slow: list[dict[str, Any]]) -> dict[str, float]:
    """The milliseconds of the slowest commands by name, those above one millisecond."""
    longest: dict[str, float] = {}
    for entry in slow:
        name = entry["command"].split()[0].decode()
        longest[name] = max(longest.get(name, 0.0), entry["duration"] / 1000)
    return longest


def _probe(port: int, stop: multiprocessing.synchronize.Event, longest: Any) -> None:
    """Ping a thousand times a second: the longest answer is how long the server was blocked, or the scheduler busy."""
    with redis.Redis(port=port) as client:
        while not stop.is_set():
            start = time.perf_counter()
            client.ping()
            longest.value = max(longest.value, time.perf_counter() - start)
            time.sleep(0.001)
