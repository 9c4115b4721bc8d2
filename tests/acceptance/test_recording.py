"""A workload on a real broker with real workers, recorded, and replayed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from signal import SIGKILL
from typing import Any, Final

import pytest

from celery_dynprio.lab.formats.jsonl import JsonLines
from celery_dynprio.lab.recording import Slots, Task
from tests.conftest import MakeProject, StartCelery, StartWorker
from tests.nodes import ProcessNode
from tests.processes import wait_until
from tests.servers import Database

PROJECT: Final = """
    import time
    from celery_dynprio import Age, DynPrio, Weight, dynprio_task

    app.conf.update(dynprio_embedded=False, dynprio_policy=2 * Weight() + 1 * Age(saturation=60), dynprio_interval=0.5)
    app.conf.update(task_acks_late=True)
    dynprio = DynPrio(app)

    @dynprio_task(app=app, name="urgent", weight=9, key="who")
    def urgent(who, seconds):
        time.sleep(seconds)

    @dynprio_task(app=app, name="usual", weight=5, key="who")
    def usual(who, seconds):
        time.sleep(seconds)

    @dynprio_task(app=app, name="bulk", weight=0, key="who")
    def bulk(who, seconds):
        time.sleep(seconds)

    @app.task(name="ping")
    def ping(): ...
"""

SLOTS: Final = 8

#: What is published when, in seconds from the first, how many of it and how long it runs in the mean: 13 seconds of all
#: slots. The waits are long beside what a worker needs between two runs, no two slots become free at once, and no task
#: waits for long or not at all by a hair's breadth.
BURSTS: Final = ((0.0, "urgent", 40, 0.8), (0.0, "usual", 24, 0.8), (0.0, "bulk", 24, 1.0), (3.0, "urgent", 32, 0.8))

COUNTS: Final = {
    name: sum(count for _, each, count, _ in BURSTS if each == name) for name in ("bulk", "usual", "urgent")
}

#: By how much a replayed mean wait may differ from the real one.
ALLOWED: Final = 0.1


def read(path: Path) -> list[Task]:
    return [entry for entry in JsonLines(path)() if isinstance(entry, Task)] if path.exists() else []


def publish(module: Any) -> None:
    """Publish the workload, in its own time."""
    began = time.monotonic()
    for after, name, count, seconds in BURSTS:
        wait_until(partial(_is_over, began + after))
        for number in range(count):
            varied = seconds * (0.75 + number * 5 % 16 / 30)
            getattr(module, name).delay(f"key-{number % 3}", varied)


def _is_over(moment: float) -> bool:
    return time.monotonic() >= moment


#: So often the workload is recorded at most: a machine that is busy with other things for a second is not replayed.
TRIES: Final = 3


@pytest.mark.timeout(400)
def test_a_recording_replayed_waits_as_long_as_the_tasks_did(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker, start_celery: StartCelery, tmp_path: Path
) -> None:
    project = make_project(valkey.url, PROJECT)
    module = project.load()
    start_worker(project, pool="prefork", concurrency=SLOTS)
    start_celery(project, "dynprio", "run", name="run", ready_line="dynprio ready")
    for number in range(TRIES):
        path = tmp_path / f"recording-{number}.jsonl.gz"
        record(module, path, start_celery(project, "dynprio", "record", str(path), ready_line="Recording to"))
        waits = {each["name"]: each for each in replayed(project.name, project.directory, path)["waits"]}
        assert min(waits[name]["recorded"] for name in COUNTS) > 1, waits
        errors = {name: waits[name]["error"] for name in COUNTS}
        if max(map(abs, errors.values())) <= ALLOWED:
            return
    pytest.fail(f"replayed waits differ by more than {ALLOWED:.0%}, last {errors}: {waits}")


def record(module: Any, path: Path, recorder: ProcessNode) -> None:
    """Have the workload run while it is recorded, and see that all of it is."""
    wait_until(lambda: _is_told(module, path), message="workers tell the recorder")
    publish(module)
    total = sum(COUNTS.values())
    wait_until(lambda: _of_workload(path) == total, 120, f"all of {total} tasks are recorded")
    recorder.container.stop()
    assert {entry.slots for entry in JsonLines(path)() if isinstance(entry, Slots)} == {SLOTS}
    assert "0 were lost" in recorder.container.logs()
    assert Counter(task.name for task in read(path) if task.name != "ping") == COUNTS


def _is_told(module: Any, path: Path) -> bool:
    """Whether a task that is published now is recorded; it is over before the workload begins."""
    module.ping.delay().get(timeout=60)
    return bool(read(path))


def _of_workload(path: Path) -> int:
    return sum(task.name != "ping" for task in read(path))


def replayed(app: str, directory: Path, path: Path) -> dict[str, Any]:
    """What ``dynprio replay`` says of its fidelity."""
    command = [sys.executable, "-m", "celery", "-A", app, "dynprio", "replay", str(path), "--json"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)["fidelity"]
    return found


def test_who_leads_records_as_the_setting_says(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker, start_celery: StartCelery, tmp_path: Path
) -> None:
    path = tmp_path / "recording.jsonl"
    project = make_project(valkey.url, PROJECT, conf={"dynprio_record": str(path), "dynprio_record_secret": "hush"})
    module = project.load()
    start_worker(project, concurrency=1)
    leader = start_celery(project, "dynprio", "run", ready_line="recording to")
    wait_until(lambda: _is_told(module, path), message="workers tell the recorder")
    module.bulk.delay("zoltan", 0.0).get(timeout=60)
    wait_until(lambda: any(task.name == "bulk" for task in read(path)), message="the task is recorded")
    module.dynprio.pause()
    leader.container.kill("SIGTERM")
    text = path.read_text()
    assert '"operator":"pause"' in text
    assert "zoltan" not in text


def test_a_recorder_that_is_killed_leaves_what_it_wrote(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker, start_celery: StartCelery, tmp_path: Path
) -> None:
    project, path = make_project(valkey.url, PROJECT), tmp_path / "recording.jsonl.gz"
    module = project.load()
    start_worker(project, concurrency=1)
    first = start_celery(project, "dynprio", "record", str(path), ready_line="Recording to")
    other = start_celery(project, "dynprio", "record", str(path), name="other")
    assert other.container.wait() == 1
    assert "another process records to this file" in other.container.logs()
    wait_until(lambda: _is_told(module, path), message="workers tell the recorder")
    first.container.kill(SIGKILL)
    before = len(read(path))
    assert before
    start_celery(project, "dynprio", "record", str(path), name="second", ready_line="Recording to")
    wait_until(lambda: path.stat().st_size > 0 and _is_told(module, path) and len(read(path)) > before)
    assert len(list(tmp_path.glob("recording*.jsonl.gz"))) == 2, "the old file is put aside, and read with the new one"
    assert len(read(tmp_path)) == len(read(path))
