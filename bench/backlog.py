"""A backlog to measure with, and how long the server was busy with single commands meanwhile."""

from __future__ import annotations

import base64
import json
import multiprocessing
import multiprocessing.synchronize
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import redis

from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.chunks import chunks

#: Letters of the text that a task is published with: the whole message has about 1 KB.
LETTERS = 300


#: Messages in one command that fills a list or a hash, and such commands that are sent at once.
AT_ONCE = 500
COMMANDS = 10


@cache
def _template(letters: int) -> bytes:
    """What Celery would publish, but for what is different in each message."""
    body = base64.b64encode(json.dumps([["x" * letters], {}, {"callbacks": None, "errbacks": None}]).encode()).decode()
    headers = {
        "lang": "py",
        "task": "shop.task%(task)d",
        "id": "00000000-0000-0000-0000-%(number)012x",
        "argsrepr": "()",
        "kwargsrepr": "{}",
        "origin": "bench",
        "dynprio": {"at": "<%(at).6f>", "w": "<%(weight)d>", "key": "tenant %(key)d"},
    }
    properties = {
        "priority": "<%(level)d>",
        "delivery_tag": headers["id"],
        "delivery_info": {"exchange": "", "routing_key": "celery"},
        "body_encoding": "base64",
    }
    kind = {"content-type": "application/json", "content-encoding": "utf-8"}
    text = json.dumps({"body": body, **kind, "headers": headers, "properties": properties})
    return text.replace('"<', "").replace('>"', "").encode()  # these are numbers


def urgent(number: int, now: float, letters: int = LETTERS) -> bytes:
    """What Celery would publish as a short task that is due in some seconds, into the last level."""
    raw = message(number, 9, 10, letters=letters).replace(b"shop.task%d" % (number % 20), b"shop.task0", 1)
    return raw.replace(b'"dynprio": {', b'"dynprio": {"due": %.6f, ' % (now + 5), 1)


def take(client: RedisClient, count: int) -> None:
    """Take so many tasks as workers do: the first of the first level that has any."""
    for level in client.scale.levels:
        if count > 0:
            count -= len(client.redis.rpop(client.level_key("celery", level), count) or ())


def message(number: int, level: int, weight: int, key: int | None = None, letters: int = LETTERS) -> bytes:
    """What Celery would publish as task ``number``, a second ago."""
    return _template(letters) % {
        b"task": number % 20,
        b"number": number,
        b"at": time.time() - 1,
        b"weight": weight,
        b"key": number % 97 if key is None else key,
        b"level": level,
    }


def weight_of(number: int) -> int:
    """Return the weight with which task ``number`` is published."""
    return number * 7 % 11


def fill(client: RedisClient, size: int, letters: int = LETTERS) -> None:
    """Publish so many tasks, by turns into each level."""
    push(client, range(size), letters)


def push(client: RedisClient, numbers: Sequence[int], letters: int = LETTERS) -> None:
    """Publish these tasks, by turns into each level: whole commands of them, because there may be a million."""
    for part in chunks(numbers, AT_ONCE * COMMANDS):
        pipe = client.redis.pipeline(transaction=False)
        for level, key in enumerate(client.level_key("celery", level) for level in client.scale.levels):
            mine = part[level :: len(client.scale.levels)]
            if mine:
                pipe.lpush(key, *(message(number, level, weight_of(number), letters=letters) for number in mine))
        pipe.execute()


def park(client: RedisClient, numbers: Sequence[int], letters: int = LETTERS) -> None:
    """Put these tasks where the leader parks what is behind the front."""
    key = client.queue_key("celery", "overflow")
    for part in chunks(numbers, AT_ONCE * COMMANDS):
        pipe = client.redis.pipeline(transaction=False)
        for few in chunks(part, AT_ONCE):
            fields: list[bytes] = []
            for number in few:
                raw = message(number, 9, weight_of(number), letters=letters)
                fields += (b"00000000-0000-0000-0000-%012x" % number, raw)
            pipe.hset(key, items=fields)
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
