"""The failure report and who writes it, with eager tasks and with requests as a worker's parent process has them."""

from __future__ import annotations

import itertools
import logging
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL, SIGUSR1
from types import SimpleNamespace
from typing import Any, Final

import pytest
from billiard.einfo import ExceptionInfo
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import Celery
from celery.exceptions import Ignore, Reject
from celery.worker import state
from celery.worker.request import Request

from celery_dynprio import DynPrio, tracing
from celery_dynprio.levels import Scale
from celery_dynprio.tracing import Ancestor, Span, describe, report
from celery_dynprio.tracing import failure_report as failures
from celery_dynprio.worker.received import TraceReceived
from celery_dynprio.worker.requests import Traced, traced_request
from tests.traced import Tracing

TRACE: Final = "a" * 32

LINEAGE: Final = (Ancestor("shop.a", "1", "one@x", 3, 0.25, 1.5), Ancestor("shop.b", "2"))

SPAN: Final = Span(TRACE, "b" * 16, task_id="3", task_name="shop.c", host="three@x", level=0, wait=2.0, lineage=LINEAGE)


class UnmarkableError(Exception):
    """Takes no attribute of ours."""

    def __setattr__(self, name: str, value: object) -> None:
        raise TypeError(name)


class UnspeakableError(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app whose failures are reported."""
    made = Celery("plain", broker="memory://", backend="cache+memory://", set_as_current=False)
    tracing_of_app = Tracing(made)
    tracing_of_app.connect()
    for _ in range(2):
        failures.connections(made).connect()
    yield made
    failures.connections(made).disconnect()
    tracing_of_app.disconnect()
    made.close()


class Kept(logging.Handler):
    """Keeps what is logged."""

    def __init__(self, records: list[logging.LogRecord]) -> None:
        super().__init__()
        self._records = records

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append(record)


@pytest.fixture
def reports() -> Iterator[list[logging.LogRecord]]:
    """What the failure logger says; filled as the test goes on."""
    found: list[logging.LogRecord] = []
    handler = Kept(found)
    failures.logger.addHandler(handler)
    yield found
    failures.logger.removeHandler(handler)


def run(app: Celery, exc: BaseException, **options: Any) -> Any:
    """An eager task that raises."""

    @app.task(name="shop.run", bind=True, **options)
    def task(_self: Any) -> None:
        raise exc

    return task.apply()


def einfo(exc: BaseException) -> ExceptionInfo:
    """As the pool hands it over."""

    def fail() -> None:
        raise exc

    try:
        fail()
    except BaseException:  # noqa: BLE001 - whichever the test wants
        return ExceptionInfo()


# The text


def test_the_report_tells_the_tasks_from_the_root_on() -> None:
    first, *chain = describe(SPAN, ValueError("no total")).splitlines()
    assert first == f"task shop.c[3] failed for good in trace {TRACE}: ValueError: no total"
    assert chain == [
        "  shop.a[1] on one@x, P3, waited 0.250 s, ran 1.500 s",
        "    shop.b[2] on an unknown worker",
        "      shop.c[3] on three@x, P0, waited 2.000 s",
    ]


@pytest.mark.parametrize(
    ("exc", "said"),
    [
        (ValueError("a\n b\r\n\u2028c"), "ValueError: a b c"),
        (ValueError("\x1b[2Jgone\x07"), r"ValueError: \x1b[2Jgone\x07"),
        (ValueError("y" * 1_000_000), f"ValueError: {'y' * 500}"),
        (UnspeakableError(), "UnspeakableError: <no text: its __str__ failed>"),
        (ValueError("grün"), "ValueError: grün"),
    ],
)
def test_an_exception_is_told_in_one_clean_line(exc: Exception, said: str) -> None:
    lines = describe(SPAN, exc).splitlines()
    assert lines[0].endswith(f": {said}")
    assert len(lines) == 4


def test_report_is_of_the_running_task_and_has_the_traceback() -> None:
    exc = ValueError("no total")
    einfo(exc)  # raises it, which gives it a traceback
    with tracing.resume(SPAN):
        told = report(exc)
    assert told.startswith(describe(SPAN, ValueError("no total")))
    assert told.endswith("\nValueError: no total")
    assert "test_failures.py" in told


def test_report_outside_of_any_trace_is_the_traceback() -> None:
    assert report(ValueError("no total")) == "ValueError: no total"


# In the process that runs the task


@pytest.mark.parametrize("exc", [ValueError("no total"), UnmarkableError("x"), UnspeakableError()])
def test_a_failure_is_one_record_with_lineage_and_traceback(
    app: Celery, reports: list[logging.LogRecord], exc: Exception
) -> None:
    result = run(app, exc)
    (record,) = reports
    text = logging.Formatter().format(record)
    assert record.levelno == logging.ERROR
    assert f"task shop.run[{result.id}] failed for good in trace " in text
    assert "\nTraceback (most recent call last):\n" in text
    (row,) = vars(record)["lineage"]
    assert (row["name"], row["id"]) == ("shop.run", result.id)
    assert row["ran"] >= 0


def test_report_works_after_the_task_has_ended(
    app: Celery, reports: list[logging.LogRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count(time.time())
    clock = SimpleNamespace(time=lambda: next(seconds))  # described twice, it differs
    monkeypatch.setattr("celery_dynprio.tracing.failure_report.time", clock)
    exc = ValueError("no total")
    run(app, exc)
    assert report(exc).startswith(reports[0].getMessage())


def test_an_exception_with_a_report_still_goes_through_pickle(app: Celery) -> None:
    exc = ValueError("no total")
    run(app, exc)
    assert report(pickle.loads(pickle.dumps(exc))).startswith("task shop.run[")  # noqa: S301 - as the pool's pipe


@pytest.mark.parametrize("exc", [Ignore(), Reject("no", requeue=False)])
def test_what_a_task_decides_is_no_failure(app: Celery, reports: list[logging.LogRecord], exc: Exception) -> None:
    run(app, exc)
    assert reports == []


def test_only_the_last_retry_is_a_failure(app: Celery, reports: list[logging.LogRecord]) -> None:
    @app.task(name="shop.retried", bind=True, max_retries=2)
    def retried(self: Any) -> None:
        raise self.retry(exc=KeyError("no such thing"), countdown=0)

    retried.apply()
    (record,) = reports
    assert "KeyError: 'no such thing'" in record.getMessage()


@pytest.mark.parametrize("throws", [(KeyError, ValueError), ValueError])
def test_an_expected_exception_is_no_error_and_has_a_report(
    app: Celery, reports: list[logging.LogRecord], throws: Any
) -> None:
    exc = ValueError("sold out")
    result = run(app, exc, throws=throws)
    assert reports == []
    assert report(exc).startswith(f"task shop.run[{result.id}] failed for good in trace ")


def test_another_app_s_failures_are_not_reported(app: Celery, reports: list[logging.LogRecord]) -> None:
    other = Celery("other", broker="memory://", backend="cache+memory://", set_as_current=False)
    run(other, ValueError("no total"))
    assert reports == []
    run(app, ValueError("no total"))
    assert len(reports) == 1


def test_a_disconnected_app_reports_nothing(app: Celery, reports: list[logging.LogRecord]) -> None:
    failures.connections(app).disconnect()
    run(app, ValueError("no total"))
    assert reports == []


SENTRY: Final = """
import runpy, sentry_sdk, sys
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import Celery
from sentry_sdk.transport import Transport
from celery_dynprio.tracing import failure_report as failures
from celery_dynprio.tracing import Span
from celery_dynprio.tracing.propagation import Propagation

class Printed(Transport):
    def capture_envelope(self, envelope):
        for item in envelope.items:
            if item.type == "event":
                event = item.payload.json
                print(event["exception"]["values"][-1]["type"], event["extra"]["tasks"].splitlines()[0])

app = Celery("plain", broker="memory://", backend="cache+memory://")
Propagation(app, lambda: None).connections().connect()
failures.connections(app).connect()
before_send = runpy.run_path(sys.argv[1])["before_send"]
sentry_sdk.init(dsn="http://key@127.0.0.1:1/1", transport=Printed, before_send=before_send)

@app.task
def boom():
    raise ValueError("no total")

@app.task(throws=(KeyError,))
def expected():
    raise KeyError("sold out")

for task in (boom, expected, boom):
    task.apply()
span = Span("a" * 32, "b" * 16, task_id="3", task_name="shop.c")
failures.log_failure(span, TimeLimitExceeded(5))
failures.log_failure(span, WorkerLostError("signal 9"), "Traceback ...")
"""


def test_sentry_makes_one_event_of_a_failure() -> None:
    example = Path(__file__).parents[2] / "docs/examples/sentry.py"
    command = [sys.executable, "-W", "ignore", "-c", SENTRY, str(example)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    events = done.stdout.splitlines()
    assert [event.split("[")[0] for event in events] == ["ValueError task plain.boom"] * 2
    assert done.stderr.count("failed for good") == 4, "the log has them all"


def test_publishers_import_nothing_of_a_worker() -> None:
    imports = "import sys, celery_dynprio.tracing.failure_report, celery_dynprio.logs"
    code = f"{imports}; sys.exit('celery.worker.request' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# In the worker's parent process


class OwnRequest(Request):
    """What a user has made of Celery's hook."""

    def own(self) -> str:
        return str(self.id)


def nothing() -> None: ...


def request_of(app: Celery, **properties: Any) -> Any:
    """A request that runs since a second."""

    task = app.tasks.get("shop.c") or app.task(name="shop.c")(nothing)
    lineage = [3, [["shop.a", "1", "one@x", 3, 0.25, 1.5]], "c" * 16]
    headers = {"id": "3", "task": "shop.c", "traceparent": SPAN.traceparent, "dynprio_lineage": lineage}
    message = SimpleNamespace(
        headers=headers,
        body="[[], {}, {}]",
        payload=([], {}, {}),
        content_type="application/json",
        content_encoding="utf-8",
        properties={"priority": 6, **properties},
        delivery_info={"routing_key": "q"},
    )
    made: Any = traced_request(OwnRequest, Scale.of((0, 3, 6, 9)))(
        message, app=app, task=task, hostname="three@x", headers=headers
    )
    made.time_start = 1000.0
    made.worker_pid = 1
    return made


def check_report(record: logging.LogRecord, said: str) -> None:
    assert f"task shop.c[3] failed for good in trace {TRACE}: {said}" in record.getMessage()
    first, second = vars(record)["lineage"]
    assert (first["name"], first["host"]) == ("shop.a", "one@x")
    assert (second["name"], second["host"], second["level"]) == ("shop.c", "three@x", 2)


def test_a_hard_time_limit_is_reported_once(app: Celery, reports: list[logging.LogRecord]) -> None:
    request_of(app).on_timeout(soft=False, timeout=5)
    (record,) = reports
    check_report(record, "TimeLimitExceeded: ")
    kind, exc, _ = record.exc_info or (None, None, None)
    assert (kind, exc.args if exc else ()) == (TimeLimitExceeded, (5,))


def test_a_message_that_comes_again_is_reported_again(app: Celery, reports: list[logging.LogRecord]) -> None:
    for _ in range(2):
        request_of(app).on_timeout(soft=False, timeout=5)
    assert len(reports) == 2


def test_a_soft_time_limit_is_for_the_task_to_report(app: Celery, reports: list[logging.LogRecord]) -> None:
    request_of(app).on_timeout(soft=True, timeout=5)
    assert reports == []


def test_a_cold_shutdown_is_no_failure(
    app: Celery, reports: list[logging.LogRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "should_terminate", 1)
    request_of(app).on_timeout(soft=False, timeout=5)
    assert reports == []


def lost() -> ExceptionInfo:
    return einfo(WorkerLostError("signal 9 (SIGKILL)"))


def test_a_lost_process_is_reported_once_with_celery_s_traceback(app: Celery, reports: list[logging.LogRecord]) -> None:
    request_of(app).on_failure(lost())
    (record,) = reports
    check_report(record, "WorkerLostError: signal 9 (SIGKILL)")
    assert "\nTraceback (most recent call last):\n" in record.getMessage()


def test_a_rejected_message_is_no_failure(app: Celery, reports: list[logging.LogRecord]) -> None:
    request_of(app).on_failure(einfo(Reject("no", requeue=False)))
    assert reports == []


class Pool:
    def terminate_job(self, pid: int, signal: int) -> None:
        assert (pid, signal in {SIGKILL, SIGUSR1}) == (1, True)


@pytest.mark.parametrize(("signal", "expected"), [(SIGKILL, 1), (SIGUSR1, 0)])
def test_a_task_revoked_while_it_runs_is_reported_unless_it_tells_itself(
    app: Celery, reports: list[logging.LogRecord], signal: int, expected: int
) -> None:
    request = request_of(app)
    request.terminate(Pool(), signal)
    request.on_failure(lost())
    assert len(reports) == expected + (signal == SIGUSR1)  # a process that is lost after a soft signal is news
    if expected:
        check_report(reports[0], "Terminated: revoked while it ran")


def test_a_task_revoked_before_it_runs_is_no_failure(app: Celery, reports: list[logging.LogRecord]) -> None:
    request = request_of(app)
    request.time_start = None
    state.revoked.add("3")
    try:
        assert request.revoked()
    finally:
        state.revoked.discard("3")
    assert reports == []


def test_what_celery_logs_of_a_request_is_in_its_span(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Span | None] = []
    monkeypatch.setattr("celery.worker.request.warn", lambda *_: seen.append(tracing.current()))
    monkeypatch.setattr("celery.worker.request.info", lambda *_: seen.append(tracing.current()))
    request_of(app).on_timeout(soft=True, timeout=5)
    state.revoked.add("3")
    try:
        request_of(app).revoked()
    finally:
        state.revoked.discard("3")
    assert [(span.trace_id, span.span_id, span.queue, span.level) for span in seen if span] == [
        (TRACE, "b" * 16, "q", 2)
    ] * 2
    assert tracing.current() is None


def test_the_step_adds_traces_to_whatever_request_a_task_has(app: Celery) -> None:
    @app.task(name="shop.own", Request=OwnRequest)
    def task() -> None: ...

    app.conf.broker_url = "redis://"  # a broker with levels, which nothing here connects to
    app.conf.broker_transport_options = {"priority_steps": [0, 3, 6, 9]}
    DynPrio(app)
    spans: list[Span | None] = []
    message = SimpleNamespace(
        headers={"id": "3", "task": "shop.own", "traceparent": SPAN.traceparent},
        delivery_info={"routing_key": "q"},
        properties={"priority": 6},
    )
    consumer = SimpleNamespace(
        app=app, hostname="three@x", strategies={"shop.own": lambda *_: spans.append(tracing.current())}
    )
    for _ in range(2):  # as after a lost connection
        step = TraceReceived(consumer)
        step.start(consumer)
    own = app.tasks["shop.own"].Request
    assert issubclass(own, OwnRequest)
    assert own.__mro__.count(Traced) == 1
    assert issubclass(app.tasks["celery.group"].Request, Traced)
    consumer.strategies["shop.own"](message, None)
    (span,) = spans
    assert span is not None
    assert (span.trace_id, span.span_id, span.host, span.queue) == (TRACE, "b" * 16, "three@x", "q")
    assert span.level == 2
