"""One run of the load: two ordinary workers, with or without the add-on and its reprioritizer."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from example_project.demo.load import expected
from example_project.demo.processes import Process, Processes, running
from example_project.demo.results import Record, Result, result

#: The module of the shop's app.
SHOP: Final = "example_project.celery"


class Setup(NamedTuple):
    """One way to run the shop."""

    #: In JSON, and for people.
    name: str
    title: str
    #: The module of its app.
    app: str
    addon: bool = False


PLAIN: Final = Setup("plain", "plain Celery", "example_project.demo.plain")
STATIC: Final = Setup("static", "static priorities", "example_project.demo.static")
DYNAMIC: Final = Setup("dynprio", "celery_dynprio", SHOP, addon=True)

WORKERS: Final = ("worker1", "worker2")

#: Seconds without any news after which the tasks that did not run count as lost.
STALLED: Final = 12.0

#: Seconds to continue after all tasks have run, to notice a task that runs twice.
SETTLE: Final = 1.0

POLL: Final = 0.1


def run_load(directory: Path, broker: str, progress: Callable[[int, int], None], setup: Setup) -> Result:
    """Run the whole load on an empty ``broker``; ``progress`` gets the numbers of published and started tasks."""
    directory.mkdir()
    file = directory / "record"
    record = Record(file)
    with running(directory, {"SHOP_BROKER": broker, "SHOP_RECORD": str(file)}) as processes:
        reprioritizer = start_reprioritizer(processes) if setup.addon else None
        workers = [start_worker(processes, setup.app, name) for name in WORKERS]
        for worker in workers:
            worker.wait_until(partial(worker.says, " ready."))
        shop = processes.start("publisher", sys.executable, "-m", "example_project.demo.load", setup.app)
        _wait(workers, shop, record, progress)
    return result(record, expected(), None if reprioritizer is None else _moves(reprioritizer))


def start_worker(processes: Processes, app: str, name: str) -> Process:
    """Start a worker with two processes, without waiting for it."""
    options = ["--concurrency", "2", "--hostname", f"{name}@%h", "--loglevel", "INFO"]
    return processes.celery(name, app, "worker", *options, "--include", "example_project.demo.recorder")


def start_reprioritizer(processes: Processes) -> Process:
    """Start the dedicated reprioritizer, and wait for its first tick."""
    process = processes.celery("reprioritizer", SHOP, "dynprio", "run")
    process.wait_until(lambda: process.says("celery: read "))  # its first tick: no worker has to start one of its own
    return process


def _wait(workers: Sequence[Process], shop: Process, record: Record, progress: Callable[[int, int], None]) -> None:
    """Wait until all expected tasks have run, or nothing happens any more."""
    news = time.monotonic()
    while time.monotonic() < news + (SETTLE if len(record.started) >= expected() else STALLED):
        time.sleep(POLL)
        if record.catch_up():
            news = time.monotonic()
        progress(len(record.sent), len(record.started))
        shop.check(may_finish=True)
        for worker in workers:
            worker.check()


def _moves(reprioritizer: Process) -> int:
    """Return the number of moves in its log, which has one line a tick."""
    return sum(map(int, re.findall(r" moved (\d+)", reprioritizer.written())))
