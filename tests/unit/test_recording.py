"""Recordings: what workers tell, what is written of it, and the files that it is written to."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from celery_dynprio import DynPrio, models
from celery_dynprio.brokers.memory import MemoryBroker
from celery_dynprio.configuration.declarations import data_of, policy_of
from celery_dynprio.errors import RecordingError
from celery_dynprio.lab.conditions import Conditions
from celery_dynprio.lab.formats.jsonl import JsonLines, header
from celery_dynprio.lab.formats.parts import Parts, parts_of
from celery_dynprio.lab.recorder import SILENCE, WORKERS_INTERVAL, WRITE_INTERVAL, Recorder, Sources, Target
from celery_dynprio.lab.recording import FailedTry, Slots, Task
from celery_dynprio.models import Context, PendingTask, Role
from celery_dynprio.monitoring.recording import Recording, record
from celery_dynprio.operators.workers import Workers
from celery_dynprio.policies import Age, Deadline, Gauge, Max, Min, Policy, Weight, default_policy, factor
from celery_dynprio.ports.feed import Batch, Ended
from celery_dynprio.stores.memory import MemoryStores
from celery_dynprio.tracing.runs import Running, RunReport, span_of_headers
from celery_dynprio.worker.entries import EndReport, PublishedTask, Report
from celery_dynprio.worker.feeding import LOOK_INTERVAL, Feeding, ended_of
from tests.processes import wait_until

CONDITIONS = Conditions(
    policy="1 * Weight()",
    declared=[{"factor": "weight", "weight": 1}],
    queues=("celery",),
    interval=1.0,
    window=10_000,
    hysteresis=0.25,
    budget=0.2,
    half_life=600.0,
    levels=(0, 3, 6, 9),
    plain_levels=(0, 3, 6, 9),
    prefetch=0,
)


def tried(number: int = 1, **fields: Any) -> Ended:
    known = {"state": "SUCCESS", "attempt": 1, "at": 1000.0, "started": 1002.5, "eta": None, "ran": 0.5}
    return Ended(
        **{"id": str(number), "name": "work", "queue": "celery", "worker": "w@h", "process": 7, **known, **fields}
    )


class Clock:
    """A time that tests change."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Made:
    """A recorder over stores in memory."""

    def __init__(self, path: Path, **target: Any) -> None:
        self.clock = Clock()
        self.stores = MemoryStores(self.clock)
        self.workers: Mapping[str, int] = {"w@h": 2}
        self.worker = self.stores.feed()
        sources = Sources(self.stores.feed(), self.stores.audit(), lambda: self.workers)
        self.recorder = Recorder(sources, Target(path, **target), CONDITIONS, self.clock)
        self.recorder.turn()
        self.total = 0

    def tell(self, *ended: Ended, lost: int = 0) -> None:
        self.total += lost + len(ended)
        self.worker.add(Batch("one", self.total, ended))

    def turn(self, after: float = WRITE_INTERVAL) -> None:
        self.clock.now += after
        self.recorder.turn()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "recording.jsonl.gz"


@pytest.fixture
def made(path: Path) -> Iterator[Made]:
    found = Made(path)
    yield found
    found.recorder.close()


def tasks(path: Path) -> list[Task]:
    return [entry for entry in JsonLines(path)() if isinstance(entry, Task)]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


# What is written


def test_a_task_is_written_with_all_that_is_known_of_it(made: Made, path: Path) -> None:
    about: dict[str, Any] = {
        "key": "ada",
        "weight": 5.0,
        "due": 1030.0,
        "dependents": 2,
        "pinned": 3,
        "level": 6,
        "start_level": 2,
    }
    made.tell(tried(eta=1001.0, **about))
    made.turn()
    (task,) = tasks(path)
    assert task == Task(1000.0, "work", 0.5, "ada", 5.0, 30.0, 1.0, 2, 3, (), "success", 1.5, "w@h", 6, 2)
    assert JsonLines(path).conditions() == CONDITIONS


@pytest.mark.parametrize(
    ("state", "outcome"),
    [("SUCCESS", "success"), ("FAILURE", "failure"), ("REVOKED", "cancelled"), ("STARTED", "failure"), ("", "failure")],
)
def test_how_a_task_ended_is_written(made: Made, path: Path, state: str, outcome: str) -> None:
    made.tell(tried(state=state))
    made.turn()
    assert [task.outcome for task in tasks(path)] == [outcome]


def test_a_clock_that_is_set_back_holds_up_nothing(made: Made, path: Path) -> None:
    made.turn()
    made.tell(tried())
    made.workers = {"w@h": 2, "other@h": 1}
    made.turn(-3600.0)
    assert len(tasks(path)) == 1
    assert [line["slots"] for line in lines(path) if line.get("worker") == "other@h"] == [1]


def test_tries_become_one_task_with_its_pauses(made: Made, path: Path) -> None:
    made.tell(tried(1, state="RETRY", key="ada"), tried(2))
    made.turn()
    made.tell(tried(1, state="RETRY", attempt=2, at=1003.0, eta=1013.0, started=1014.0))
    made.tell(tried(1, attempt=3, at=1014.5, eta=1020.0, started=1020.0, ran=2.0))
    made.turn()
    other, one = tasks(path)
    assert other == Task(1000.0, "work", 0.5, outcome="success", waited=2.5, worker="w@h")
    failed = (FailedTry(0.5, 10.0), FailedTry(0.5, 5.5))
    assert one == Task(1000.0, "work", 2.0, "ada", failed=failed, outcome="success", waited=3.5, worker="w@h")


def test_a_task_between_two_tries_ended_as_far_as_is_known(made: Made, path: Path) -> None:
    made.tell(tried(state="RETRY"))
    made.turn()
    assert [(task.outcome, task.failed) for task in tasks(path)] == [("retry", ())]


def test_a_task_without_our_header_came_when_it_started_for_all_that_is_known(made: Made, path: Path) -> None:
    made.tell(tried(at=None), tried(at=None, started=None, state="REVOKED", ran=0.0))
    made.turn()
    assert [(task.at, task.waited) for task in tasks(path)] == [(1002.5, None), (made.clock.now, None)]


def test_equal_keys_have_equal_hashes_that_depend_on_the_secret(tmp_path: Path) -> None:
    found = []
    for secret in ("one", "two"):
        path = tmp_path / f"{secret}.jsonl.gz"
        made = Made(path, secret=secret)
        made.tell(tried(1, key="ada"), tried(2, key="ada"), tried(3, key="bob"), tried(4))
        made.recorder.turn()
        made.recorder.close()
        found.append([task.key for task in tasks(path)])
    (a, also_a, b, none), (other, *_) = found
    assert a == also_a != b
    assert none is None
    assert a != other
    assert "ada" not in (a, b, other)


def test_workers_come_and_go(made: Made, path: Path) -> None:
    began = made.clock.now
    made.workers = {"w@h": 2, "v@h": 1}
    made.turn(WORKERS_INTERVAL)
    made.workers = {"w@h": 4}
    made.turn(WORKERS_INTERVAL)
    for _ in range(10):
        made.turn(SILENCE / 9)
    found = [entry for entry in JsonLines(path)() if isinstance(entry, Slots)]
    later = began + WORKERS_INTERVAL
    assert set(found) == {
        Slots(began, "w@h", 2),
        Slots(later, "v@h", 1),
        Slots(later, "v@h", 0),
        Slots(later + WORKERS_INTERVAL, "w@h", 4),
    }


def test_a_worker_that_tells_before_it_answered_is_asked_for_at_once(made: Made, path: Path) -> None:
    made.workers = {"w@h": 2, "new@h": 3}
    made.tell(tried(worker="new@h"))
    made.turn(0.1)
    made.turn()
    assert Slots(1000.1 + WRITE_INTERVAL, "new@h", 3) in list(JsonLines(path)())


def test_what_operators_did_is_written_once_without_their_names(path: Path) -> None:
    made = Made(path)
    made.stores.audit().add(op="bump", by="ada@pc", why="they called", queue="celery", id="1", task="work")
    made.clock.now += 1
    made.stores.audit().add(op="pause", by="bob@pc")
    made.turn()
    made.turn()
    made.recorder.close()
    found = [line for line in lines(path) if "operator" in line]
    assert [line["operator"] for line in found] == ["bump", "pause"]
    assert found[0] == {
        "at": 1000.0, "operator": "bump", "queue": "celery", "id": "1", "task": "work", "answer": "done"
    }  # fmt: skip


def test_what_got_lost_on_the_way_is_counted(made: Made, path: Path) -> None:
    made.tell(tried(), lost=5)  # before the recorder came
    made.tell(tried(), lost=3)
    made.worker.add(Batch("another", 100, [tried()]))
    made.worker.add(Batch("another", 102, [tried()]))
    made.turn()
    assert made.recorder.dropped == 4
    assert [line["dropped"] for line in lines(path) if "dropped" in line] == [4]
    made.turn()
    assert [line["dropped"] for line in lines(path) if "dropped" in line] == [4]


def test_recording_goes_on_when_the_broker_comes_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(path)
    made.tell(tried())
    failing = iter([OSError("away"), OSError("away")])

    def turn() -> None:
        if (problem := next(failing, None)) is not None:
            raise problem
        Recorder.turn(made.recorder)

    monkeypatch.setattr(made.recorder, "turn", turn)
    stops = iter([False, False, True])
    record(made.recorder, lambda _: next(stops))
    assert len(tasks(path)) == 1


class Process:
    """A process that may lead."""

    def __init__(self, path: Path) -> None:
        self.broker = MemoryBroker()
        app = Celery("recorded", broker="memory://", set_as_current=False)
        app.conf.update(dynprio_queues=["first", "second"], dynprio_record=str(path))
        installed: Any = SimpleNamespace(app=app, settings=DynPrio(app).settings, connect=lambda: self.broker)
        self.recording = Recording(installed, str(path))

    def observe(self, role: Role, queue: str = "first") -> None:
        self.recording.observe(models.Report(queue, role, started=0.0))


def test_who_leads_the_first_queue_records(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers({"w@h": 2}, {"w@h": frozenset({"first"})})
    monkeypatch.setattr("celery_dynprio.operators.workers.ask", lambda _: workers)
    process = Process(path)
    process.observe(Role.STANDBY)
    process.observe(Role.LEADER, "second")
    process.observe(Role.DRY_RUN)
    assert not path.exists()
    process.observe(Role.LEADER)
    wait_until(lambda: path.exists() and path.stat().st_size)
    process.observe(Role.PAUSED)
    with pytest.raises(RecordingError, match="another process"):
        opened(path)
    process.observe(Role.STANDBY)
    wait_until(lambda: _is_free(path), message="it records no more")
    process.recording.close()
    assert JsonLines(path).recorded


def test_a_recording_that_cannot_begin_is_told_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    process = Process(tmp_path / "no" / "recording.jsonl.gz")
    process.observe(Role.LEADER)
    wait_until(lambda: "nothing is recorded" in caplog.text)
    process.recording.close()
    assert "No such file or directory" in caplog.text


def _is_free(path: Path) -> bool:
    try:
        opened(path).close()
    except RecordingError:
        return False
    return True


# The files


def opened(path: Path, clock: Clock | None = None, size: int = 100_000, files: int = 10) -> Parts:
    return Parts(path, lambda: '{"header": true}', clock or Clock(), size=size, files=files)


@pytest.mark.parametrize("name", ["r.jsonl", "r.jsonl.gz"])
def test_files_are_put_aside_when_they_are_full_and_the_oldest_go(tmp_path: Path, name: str) -> None:
    clock, path = Clock(), tmp_path / name
    parts = opened(path, clock, size=1, files=3)
    for number in range(5):
        parts.write(str(number))
        parts.flush()
        clock.now += 0.0005  # two have the same name but for a number
    parts.close()
    found = parts_of(path)
    assert len(found) == 3
    assert found[-1] == path
    read = [gzip.decompress(each.read_bytes()) if each.suffix == ".gz" else each.read_bytes() for each in found]
    assert read == [b'{"header": true}\n%d\n' % number for number in (2, 3, 4)]
    assert parts_of(tmp_path) == found


def test_a_file_that_somebody_moved_is_followed_by_another(path: Path) -> None:
    parts = opened(path)
    parts.write("before")
    parts.flush()
    path.rename(path.with_name("moved.jsonl.gz"))
    parts.write("after")
    parts.close()
    assert gzip.decompress(path.read_bytes()) == b'{"header": true}\nafter\n'


def test_what_another_process_writes_cannot_be_written(path: Path) -> None:
    parts = opened(path)
    with pytest.raises(RecordingError, match="another process records to this file"):
        opened(path)
    parts.close()
    opened(path).close()


def test_what_an_earlier_process_wrote_is_put_aside(path: Path) -> None:
    for number in range(5):
        parts = opened(path, files=3)
        parts.write(str(number))
        parts.close()
    read = [gzip.decompress(each.read_bytes()).splitlines()[-1] for each in parts_of(path)]
    assert read == [b"2", b"3", b"4"]


def test_what_the_disk_does_not_take_is_dropped_and_the_file_stays_whole(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = opened(path)
    parts.write("before")
    parts.flush()

    def full(file: int, data: bytes) -> int:
        if len(data) > 10:
            return written(file, data[:10])
        raise OSError(28, "No space left on device")

    written = os.write
    monkeypatch.setattr(os, "write", full)
    parts.write("x" * 1000)
    with pytest.raises(OSError, match="No space"):
        parts.flush()
    monkeypatch.undo()
    assert parts.dropped == 1
    parts.write("after")
    parts.close()
    assert gzip.decompress(path.read_bytes()) == b'{"header": true}\nbefore\nafter\n'


def test_a_recording_can_be_read_up_to_wherever_it_ends(made: Made, path: Path) -> None:
    for number in range(3):
        made.tell(*(tried(10 * number + each) for each in range(10)))
        made.turn()
    whole = path.read_bytes()
    counts = []
    for end in range(len(whole) - 20, len(whole) + 1):
        path.write_bytes(whole[:end])
        counts.append(len(tasks(path)))
    assert counts[-1] == 30
    assert all(20 <= count <= 30 for count in counts)


def test_a_folder_must_hold_one_recording(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="holds no recording"):
        parts_of(tmp_path)
    for name in ("a.jsonl", "b.jsonl.gz", "b.20260131-235959-000.jsonl.gz"):
        (tmp_path / name).touch()
    with pytest.raises(RecordingError, match=r"holds several recordings: name one of a\.jsonl, b\.jsonl\.gz"):
        parts_of(tmp_path)
    assert [each.name for each in parts_of(tmp_path / "b.jsonl.gz")] == [
        "b.20260131-235959-000.jsonl.gz",
        "b.jsonl.gz",
    ]


def test_a_file_begins_with_the_workers_that_there_are_then(tmp_path: Path) -> None:
    path = tmp_path / "recording.jsonl.gz"
    made = Made(path, size=1, files=1)
    made.tell(tried())
    made.turn()
    made.recorder.close()
    assert len(parts_of(path)) == 1
    assert [entry.slots for entry in JsonLines(path)() if isinstance(entry, Slots)][:1] == [2]


def test_the_time_between_two_runs_is_measured_where_a_task_waited_for_it(made: Made, path: Path) -> None:
    made.tell(
        tried(1, started=1000.0, ran=1.0),
        tried(2, started=1001.02, ran=1.0),
        tried(3, started=1002.06, ran=1.0),
        tried(4, at=1005.0, started=1005.0, ran=1.0),  # nothing waited
        tried(5, started=1050.0, ran=1.0),  # it was held
    )
    made.turn()
    assert JsonLines(path).turnaround() == pytest.approx(0.03)


def test_a_wrong_line_is_named_wherever_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "recording.jsonl"
    path.write_text(f'{header()}\n{{"name": "work", "at": "soon", "run": 1, "process": 7, "waited": 1}}\n')
    with pytest.raises(RecordingError, match=r"line 2: .*soon"):
        JsonLines(path).turnaround()
    with pytest.raises(RecordingError, match=r"line 2: .*soon"):
        JsonLines(path)()


# What workers tell


def nothing() -> None: ...


def reported(state: str = "SUCCESS", *, ran: float | None = 2.0, **request: Any) -> RunReport:
    app = Celery("recorded", broker="memory://", set_as_current=False)
    task = app.task(name="work", shared=False)(nothing)
    made = SimpleNamespace(**{"id": "1", "delivery_info": {}, "hostname": "w@h", "retries": 1, **request})
    return RunReport(Running(task, made, vars(made), lambda: None, None), state, ran, "", first=True)


def test_a_run_that_ended_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery_dynprio.tracing.runs.time", SimpleNamespace(time=lambda: 5.0, perf_counter=float))
    header = {"at": 1.0, "w": 5, "due": 9.0, "key": "ada", "n": 2, "pin": 3, "mv": [[1.0, 4, 0, 0.5, "score"]]}
    report = reported(dynprio=header, eta="1970-01-01T00:00:03", delivery_info={"routing_key": "celery"})
    assert ended_of(report, ()) == Ended(
        "1", "work", "celery", "w@h", os.getpid(), "SUCCESS", 2, 1.0, 5.0, 3.0, 2.0, "ada", 5.0, 9.0, 2, 3, 4, None
    )  # fmt: skip


def test_a_task_that_something_outside_ended_is_told() -> None:
    headers = {"id": "1", "task": "work", "dynprio": {"at": 1.0}, "eta": "hostile"}
    report = EndReport("REVOKED", span_of_headers(headers), headers, None, "")
    found = ended_of(report, ())
    assert found is not None
    assert (found.state, found.started, found.ran, found.eta) == ("REVOKED", None, 0.0, None)


@pytest.mark.parametrize(
    "report",
    [
        reported(ran=None, dynprio={}),
        reported(delivery_info={"routing_key": "elsewhere"}),
        PublishedTask({"id": "1"}, "celery"),
    ],
)
def test_what_has_not_ended_and_what_is_not_ours_is_not_told(report: Report) -> None:
    assert ended_of(report, {"celery"}) is None


def test_a_task_without_our_header_is_told_if_its_queue_is_managed() -> None:
    found = ended_of(reported(dynprio="hostile", delivery_info={"routing_key": "celery"}), {"celery"})
    assert found is not None
    assert (found.at, found.key, found.weight) == (None, None, 1.0)


def test_nothing_is_told_unless_a_recorder_asks() -> None:
    stores, clock = MemoryStores(), Clock()
    recorder, other = stores.feed(), stores.feed()
    recorder.read()
    feeding = Feeding(stores.feed(), ["celery"], lambda: 3, clock)
    feeding.add([reported(dynprio={})])
    other.ask(60.0)
    feeding.add([reported(dynprio={})])  # it looks now and then only
    assert recorder.read() == []
    clock.now += LOOK_INTERVAL
    feeding.add([reported(dynprio={})] * 150)
    told = recorder.read()
    assert [(batch.total, len(batch.ended)) for batch in told] == [(103, 100), (153, 50)]


# Policies in words that another process reads


@factor
def own(task: PendingTask, context: Context) -> float:
    return task.weight / (context.now + 1)


@pytest.mark.parametrize("policy", [default_policy(), 2 * Max(Weight(), Min(Age(), Deadline())) + 0.5 * Weight()])
def test_policies_are_said_by_plain_data(policy: Policy) -> None:
    found = data_of(policy)
    assert found is not None
    assert repr(policy_of(json.loads(json.dumps(found)))) == repr(policy)


@pytest.mark.parametrize("policy", [1 * Gauge(lambda: 1.0), 1 * own])
def test_what_plain_data_cannot_say_is_not_said(policy: Policy) -> None:
    assert data_of(policy) is None


@pytest.mark.parametrize("name", [name for name in CONDITIONS.as_object() if name != "declared"])
def test_conditions_that_do_not_say_all_are_none(name: str) -> None:
    header = json.loads(json.dumps(CONDITIONS.as_object()))
    assert Conditions.read(header) == CONDITIONS
    del header[name]
    assert Conditions.read(header) is None
