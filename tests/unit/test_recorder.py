"""What a process tells the trace store of the tasks that it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, signals
from celery.exceptions import Ignore, Reject
from hypothesis import given
from hypothesis import strategies as st

from celery_dynprio import Objective
from celery_dynprio.levels import Scale
from celery_dynprio.settings import Settings
from celery_dynprio.tracing import Span
from celery_dynprio.tracing.records import SpanRecord, lone_from_json, lone_to_json
from celery_dynprio.tracing.runs import Running
from celery_dynprio.worker.entries import Entry, coalesced, lone_run, record_of
from celery_dynprio.worker.outlets import Outlets, SharedBroker, Traces
from celery_dynprio.worker.recorder import Recorder, _lose
from celery_dynprio.worker.sender import Outlet
from tests.traced import Tracing

SCALE = Scale.of(range(10))

PARENT = f"00-{'a' * 32}-{'b' * 16}-01"


@pytest.fixture
def settings() -> dict[str, Any]:
    """Settings of the app, to be changed before the first task runs."""
    return {}


@pytest.fixture
def app() -> Iterator[Celery]:
    made = Celery("plain", broker="memory://", backend="cache+memory://", set_as_current=False)
    yield made
    made.close()


@pytest.fixture
def recorder(app: Celery, settings: dict[str, Any]) -> Iterator[Recorder]:
    """What records the tasks of the app."""
    tracing = Tracing(app)
    made = Recorder(app, lambda: Settings(**settings), lambda: pytest.fail("not connected"))
    tracing.propagation.follower = made.follow
    tracing.connect()
    made.connect()
    yield made
    made.disconnect()
    tracing.disconnect()


@pytest.fixture
def entries(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> list[Entry]:
    """What is put aside to be sent."""
    found: list[Entry] = []
    monkeypatch.setattr(recorder, "senders", SimpleNamespace(put=found.append))
    return found


@pytest.fixture
def records(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> list[SpanRecord]:
    """What is recorded, if all is sent at once."""
    found: list[SpanRecord] = []

    def send(entry: Entry) -> None:
        report = entry.report() if isinstance(entry, Running) else entry
        if report is not None:
            found.append(record_of(report))

    monkeypatch.setattr(recorder, "senders", SimpleNamespace(put=send))
    return found


def run(task: Any, **headers: Any) -> None:
    """Run a task as a worker's pool does."""
    from celery.app.trace import build_tracer  # noqa: PLC0415 - only workers have it

    tracer: Callable[..., Any] = build_tracer(task.name, task, app=task.app)
    request = {"id": "1", "delivery_info": {"routing_key": "celery", "priority": 0}, "hostname": "w@h", "retries": 0}
    tracer("1", (), {}, {"traceparent": PARENT, **request, **headers})


def running(entry: Entry) -> Running:
    assert isinstance(entry, Running)
    return entry


def test_a_run_is_recorded_from_its_start_to_its_end(app: Celery, records: list[SpanRecord]) -> None:
    @app.task(name="shop.work")
    def work() -> None: ...

    header = {"at": 1000.0, "mv": [[1001.0, 5, 0, 0.9, "score"]]}
    lineage = [5, [["shop.a", "0", "v@h", 1, 0.5, 0.5]], "c" * 16]
    run(work, dynprio=header, dynprio_lineage=lineage)
    started, ended = records
    assert (started.state, ended.state) == ("STARTED", "SUCCESS")
    assert (ended.trace_id, ended.key, ended.span_id, ended.parent_span_id) == ("a" * 32, "b" * 16, "b" * 16, "c" * 16)
    assert (ended.task_id, ended.task_name, ended.parent_task_id) == ("1", "shop.work", "0")
    assert (ended.queue, ended.host, ended.attempt) == ("celery", "w@h", 1)
    assert (ended.published, ended.level_at_publish) == (1000.0, 5)
    assert [move.reason for move in ended.moves] == ["score"]
    assert ended.started == started.started
    assert ended.ran is not None
    assert 0 <= ended.ran < 60
    assert (started.ran, started.error, ended.error) == (None, "", "")


@pytest.mark.parametrize(
    ("exc", "ended"),
    [
        (ValueError("no\ntotal"), ("FAILURE", "ValueError: no total")),
        (Ignore("enough"), ("IGNORED", "Ignore: enough")),
        (Reject("bad"), ("REJECTED", "Reject: ('bad', False)")),
    ],
)
def test_how_a_run_ended_is_recorded(
    app: Celery,
    records: list[SpanRecord],
    monkeypatch: pytest.MonkeyPatch,
    exc: Exception,
    ended: tuple[str, str],
) -> None:
    @app.task
    def work() -> None:
        raise exc

    monkeypatch.setattr(app.backend, "mark_as_failure", lambda *_args, **_options: None)
    run(work)
    _, last = records
    assert (last.state, last.error) == ended


def test_what_a_task_publishes_is_recorded_before_anybody_runs_it(app: Celery, records: list[SpanRecord]) -> None:
    @app.task(name="shop.work")
    def work() -> None:
        app.send_task("shop.next", task_id="2", queue="elsewhere")

    app.send_task("shop.next", task_id="before")
    run(work)
    app.send_task("shop.next", task_id="after")
    _, pending, ended = records
    assert (pending.state, pending.task_name, pending.task_id, pending.queue) == (
        "PENDING",
        "shop.next",
        "2",
        "elsewhere",
    )
    assert (pending.trace_id, pending.parent_span_id, pending.parent_task_id) == ("a" * 32, ended.span_id, "1")
    assert pending.host == ""


def test_a_run_is_put_aside_once_unless_it_was_told_of_before_its_end(app: Celery, entries: list[Entry]) -> None:
    told: list[Any] = []

    @app.task
    def short() -> None: ...

    @app.task
    def long() -> None:
        told.append(running(entries[-1]).report())

    run(short)
    assert len(entries) == 1
    assert (first := running(entries[0]).report()) is not None
    assert (first.state, first.first, first.ran is None) == ("SUCCESS", True, False)
    assert running(entries[0]).report() is None, "that was all"
    run(long)
    told += [running(entry).report() for entry in entries[1:]]
    assert [each and (each.state, each.first) for each in told] == [("STARTED", True), ("SUCCESS", False), None]


class Store:
    """A store of which some attempts fail."""

    def __init__(self, *fails: str) -> None:
        self._fails = list(fails)
        self.kept: list[Any] = []
        self._fail("open")

    def _fail(self, what: str) -> None:
        if what in self._fails:
            self._fails.remove(what)
            raise OSError(what)

    def add(self, told: Any) -> None:
        self._fail("add")
        self.kept.extend(told)

    def close(self) -> None: ...


def test_a_store_that_fails_keeps_nothing_from_the_others(
    app: Celery, entries: list[Entry], caplog: pytest.LogCaptureFixture
) -> None:
    @app.task
    def work() -> None: ...

    run(work)
    fine = Store()
    outlets = [Outlet("a", lambda: Store("open")), Outlet("b", lambda: fine), Outlet("c", lambda: Store("add"))]
    Outlets(outlets).add(entries)
    assert [each.run for each in fine.kept] == entries
    assert [record.getMessage() for record in caplog.records if "sent" in record.msg] == [
        "a could not be sent, 1 dropped so far: open",
        "c could not be sent, 1 dropped so far: add",
    ]
    assert [outlet.dropped for outlet in outlets] == [1, 0, 1]


def test_the_end_of_a_run_is_told_though_its_start_was_lose(app: Celery, entries: list[Entry]) -> None:
    """The broker is away when it starts, and back when it ends; or what waits overflowed meanwhile."""
    opened = iter([Store, Store("nothing"), Store("nothing")])
    kept: list[Any] = []

    def open_store() -> Any:
        store = next(opened)
        if store is Store:
            raise OSError("no broker")
        kept.append(store)
        return store

    everything = Outlets([Outlet("a", open_store)])
    lose: list[Callable[[Entry], None]] = [lambda entry: everything.add([entry]), _lose]

    @app.task
    def work() -> None:
        lose.pop(0)(entries.pop())

    for _ in range(2):
        run(work)
        everything.add([entries.pop()])
    assert entries == []
    assert [(told.state, told.first) for told in kept[0].kept] == [("SUCCESS", False)] * 2


def test_that_the_broker_is_away_is_found_out_once_in_each_send() -> None:
    tried: list[int] = []

    def connect() -> Any:
        tried.append(1)
        if len(tried) < 3:
            raise OSError("no broker")
        return object()

    connection = SharedBroker(connect)
    everything = Outlets([Outlet(name, lambda: Store(str(connection()))) for name in "abc"], connection.try_again)
    for sends in (1, 2, 3, 3):
        everything.add([])
        assert len(tried) == sends


def test_what_the_trace_store_did_not_get_is_counted(app: Celery, entries: list[Entry]) -> None:
    @app.task
    def work() -> None: ...

    for task_id in "abc":
        run(work, id=task_id)
    told = [running(entry).report() for entry in entries]

    class Spans:
        taken, dropped = 0, 0

        def add(self, records: list[SpanRecord], _: object) -> None:
            self.taken += len(records) - 1  # the second call is not answered
            raise OSError("no broker")

        def close(self) -> None: ...

    spans: list[Any] = []
    traces = Traces(lambda: spans[0])
    for opened, not_sent in (([], 3), ([Spans()], 4)):
        spans[:] = opened
        with pytest.raises((OSError, IndexError)):
            traces.add([each for each in told if each is not None])
        assert traces.not_sent == not_sent


#: What a message may say, and what nobody should have written.
ODD: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.none()) | st.just({})
)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "id": ODD | st.just("x" * 300),
        "retries": ODD,
        "delivery_info": ODD | st.fixed_dictionaries({"routing_key": ODD, "priority": ODD | st.just(3)}),
        "hostname": ODD,
        "traceparent": ODD | st.just(PARENT) | st.just(f"00-{'0' * 32}-{'b' * 16}-01"),
        "dynprio_lineage": ODD | st.just([5, [["shop.a", "0", "v@h", 1, 0.5, 0.5]], "c" * 16]),
        "dynprio": ODD
        | st.fixed_dictionaries({}, optional={"at": ODD | st.just(1e9), "mv": ODD | st.just([[1e9, 5, 0, 0.9, "x"]])}),
    },
)


@given(headers=HEADERS, end=st.sampled_from(["SUCCESS", "FAILURE", None]), twice=st.booleans(), leads=st.booleans())
def test_what_is_kept_of_a_lone_run_is_its_record(
    headers: dict[str, Any], end: str | None, *, twice: bool, leads: bool
) -> None:
    made = SimpleNamespace(**{"id": "1", "delivery_info": {}, "hostname": "w@h", **headers})
    ran = Running(SimpleNamespace(name="shop.work"), made, {"traceparent": PARENT, **vars(made)}, lambda: SCALE, None)
    told = [ran.report()] if twice else []
    if leads:
        ran.lead()
    if end is not None:
        ran.end(end, "")
    told.append(ran.report())
    for report in told:
        assert report is not None
        found, record = lone_run(report), record_of(report)
        if found is not None:
            assert found.record() == record
            assert lone_from_json(lone_to_json([found])) in ([record], [])  # none without an id
        if twice or leads or end != "SUCCESS" or record.parent_span_id or record.attempt > 1:
            assert found is None


def test_most_runs_are_lone_ones(app: Celery, entries: list[Entry]) -> None:
    @app.task(name="shop.work")
    def work() -> None: ...

    run(work, dynprio={"at": 1.0})
    assert (report := running(entries[0]).report()) is not None
    assert lone_run(report) is not None


def test_a_run_that_publishes_is_none(app: Celery, recorder: Recorder, entries: list[Entry]) -> None:
    @app.task(name="shop.work")
    def work() -> None:
        app.send_task("shop.next")

    run(work, dynprio={"at": 1.0})
    assert recorder
    assert (report := running(entries[0]).report()) is not None
    assert (report.state, lone_run(report)) == ("SUCCESS", None)


@pytest.mark.parametrize("text", ["", "5", "[5, null, [], {}]", "[" * 10**5, '[["t"]]', b"\xff", '[["t", "k", ""]]'])
def test_malformed_lone_runs_are_left_out(text: str | bytes) -> None:
    assert lone_from_json(text) == []


def test_a_run_that_was_ended_from_outside_has_no_time(app: Celery, records: list[SpanRecord]) -> None:
    @app.task
    def work() -> None:
        raise SystemExit

    with pytest.raises(SystemExit):
        run(work)
    assert [(record.state, record.ran) for record in records] == [("STARTED", None)] * 2


def test_what_waits_of_a_message_is_bounded(recorder: Recorder, entries: list[Entry]) -> None:
    headers = {"traceparent": PARENT, "argsrepr": "x" * 10**6}
    recorder.record("REVOKED", Span("a" * 32, "b" * 16), headers, ValueError("x" * 10**6))
    assert len(repr(entries)) < 2_000


def test_eager_tasks_and_other_apps_are_left_out(app: Celery, records: list[SpanRecord]) -> None:
    other = Celery("other", broker="memory://", set_as_current=False)

    @app.task
    def work() -> None: ...

    @other.task
    def elsewhere() -> None:
        work.delay()

    work.apply()
    run(elsewhere)
    assert records == []
    other.close()


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"learn": False}, []),
        ({"learn": True}, ["1"]),
        ({"learn": False, "metrics_port": 1}, ["1"]),
        ({"learn": False, "objectives": [Objective("soon", "*", within=1)]}, ["1"]),
    ],
)
def test_it_can_be_turned_off(
    recorder: Recorder, settings: dict[str, Any], entries: list[Entry], other: dict[str, Any], told: list[str]
) -> None:
    app = recorder._app
    settings.update(trace=False, **other)

    @app.task
    def work() -> None:
        app.send_task("shop.next")

    run(work)
    recorder.record("FAILURE", Span("a" * 32, "b" * 16), {}, ValueError())
    assert [isinstance(entry, Running) and entry.id for entry in entries] == told


def test_the_parent_process_tells_what_it_knows(recorder: Recorder, records: list[SpanRecord]) -> None:
    span = Span("a" * 32, "b" * 16, task_id="1", task_name="shop.work", host="w@h", started=1.0)
    recorder.record("REVOKED", span, {"traceparent": PARENT, "dynprio": "hostile"}, ValueError("x" * 1000))
    (told_record,) = records
    assert (told_record.state, told_record.key, told_record.span_id) == ("REVOKED", "b" * 16, "b" * 16)
    assert len(told_record.error) == 500
    assert told_record.ran is not None


def test_of_what_comes_together_only_the_last_is_sent(app: Celery, records: list[SpanRecord]) -> None:
    @app.task
    def work() -> None:
        app.send_task("shop.next")

    run(work)
    run(work, traceparent=f"00-{'a' * 32}-{'e' * 16}-01")
    run(work, traceparent="hostile", id="3")
    assert [record.state for record in coalesced(records)] == ["SUCCESS", "PENDING"] * 3


def test_hostile_headers_make_bounded_records(app: Celery, records: list[SpanRecord]) -> None:
    @app.task
    def work() -> None: ...

    odd: list[Any] = [None, 5, [], {}, "x" * 10**6, [[[]]], "\n\x1b", float("nan")]
    for value in odd:
        run(work, traceparent=value, dynprio_lineage=value, dynprio=value, tracestate=value)
        run(work, dynprio={"at": value, "mv": value}, dynprio_lineage=[value] * 3)
    assert len(records) == 32
    for record in coalesced(records):
        text = record.to_json()
        assert len(text) < 1000
        assert SpanRecord.from_json(record.trace_id, f"{record.task_id} {record.key}", text) == record


def test_connect_and_disconnect_leave_the_signals_as_they_were() -> None:
    app = Celery("plain", broker="memory://", set_as_current=False)
    watched = (
        signals.task_prerun,
        signals.task_postrun,
        signals.after_task_publish,
        signals.worker_process_shutdown,
        signals.worker_shutdown,
    )
    before = [list(signal.receivers or ()) for signal in watched]
    recorder = Recorder(app, Settings, lambda: pytest.fail("not connected"))
    recorder.connect()
    recorder.connect()
    assert sum(len(signal.receivers or ()) for signal in watched) == sum(map(len, before)) + 2
    recorder.disconnect()
    recorder.disconnect()
    assert [list(signal.receivers or ()) for signal in watched] == before
