"""The trace store as real workers fill it, and ``dynprio trace`` as an operator reads it."""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from celery import Celery
from celery.app.trace import build_tracer

from celery_dynprio import DynPrio, tracing
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.spans import RedisSpans
from celery_dynprio.tracing import Span
from celery_dynprio.tracing.records import SpanRecord
from celery_dynprio.tracing.runs import Running
from tests.apps import make_app
from tests.conftest import MakeProject, StartCelery, StartServer, StartWorker
from tests.nodes import Project
from tests.processes import wait_until
from tests.servers import Database

BODY: Final = """
    import json, logging, os, signal, time
    from celery_dynprio import DynPrio, Weight, dynprio_task
    from celery_dynprio.worker import sender

    sender.LAST_SEND_TIMEOUT = 60.0
    app.conf.update(dynprio_embedded=False, dynprio_policy=1 * Weight())
    app.conf.update(json.loads(os.environ.get("SETTINGS", "{}")))
    dynprio = DynPrio(app)

    @dynprio_task(app=app, weight=5)
    def parent(name):
        app.signature(name).delay()

    @app.task
    def fine(): ...

    @app.task
    def broken():
        raise ValueError("no\\ntotal")

    @app.task
    def killed():
        os.kill(os.getpid(), signal.SIGKILL)

    @app.task(time_limit=1)
    def hanging():
        time.sleep(60)

    @app.task(bind=True, max_retries=1)
    def retried(self):
        raise self.retry(exc=KeyError("no such thing"), countdown=0)

    @app.task
    def long():
        logging.getLogger("a.library").warning("long began")
        time.sleep(60)
"""

TRACE: Final = "0af7651916cd43dd8448eb211c80319c"


#: What publishes first in it.
WEB: Final = Span(TRACE, "b7ad6b7169203331")


class Kept:
    """What is kept of TRACE."""

    def __init__(self, url: str) -> None:
        self.spans = RedisSpans(RedisClient.from_app(make_app(url)))

    def records(self) -> dict[str, list[SpanRecord]]:
        """By the last part of the task's name, the first attempt first."""
        found = self.spans.read(TRACE)
        by_name: dict[str, list[SpanRecord]] = {}
        for span in sorted(found.spans if found else (), key=lambda span: span.attempt):
            by_name.setdefault(span.task_name.rpartition(".")[2], []).append(span)
        return by_name

    def wait(self, **states: list[str]) -> dict[str, list[SpanRecord]]:
        """Wait until the runs of each task are in these states."""

        def settled() -> bool:
            return {name: [span.state for span in spans] for name, spans in self.records().items()} == states

        try:
            wait_until(settled, 60)
        except AssertionError:
            raise AssertionError(f"{self.records()} is not {states}") from None
        return self.records()


@pytest.fixture
def kept(valkey: Database) -> Iterator[Kept]:
    made = Kept(valkey.url)
    yield made
    made.spans.close()


@pytest.fixture
def project(valkey: Database, make_project: MakeProject) -> Project:
    return make_project(valkey.url, BODY)


def under_trace(project: Project, task: str, *args: Any, **options: Any) -> Any:
    """Publish a task under TRACE."""
    with tracing.resume(WEB):
        return getattr(project.load(), task).apply_async(args, **options)


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent", "eventlet"])
def test_each_run_is_kept_whatever_the_pool(kept: Kept, project: Project, start_worker: StartWorker, pool: str) -> None:
    if pool in {"gevent", "eventlet"}:
        pytest.importorskip(pool)
    worker = start_worker(project, pool=pool)
    result = under_trace(project, "parent", f"{project.name}.broken")
    found = kept.wait(parent=["SUCCESS"], broken=["FAILURE"])
    (parent,), (broken,) = found["parent"], found["broken"]
    assert (parent.task_id, parent.parent_span_id) == (result.id, WEB.span_id)
    assert (broken.parent_task_id, broken.parent_span_id) == (parent.task_id, parent.span_id)
    assert broken.error == "ValueError: no total"
    assert {span.host for span in (parent, broken)} == {worker.hostname()}
    for span in (parent, broken):
        assert span.level == span.level_at_publish is not None
        assert span.queue == "celery"
        assert span.published is not None
        assert span.started is not None
        assert span.wait == pytest.approx(span.started - span.published)
        assert span.ran is not None


@pytest.mark.parametrize(
    ("task", "states"),
    [
        ("killed", {"FAILURE": "WorkerLostError: "}),
        ("hanging", {"FAILURE": "TimeLimitExceeded: "}),
        ("retried", {"RETRY": "Retry: ", "FAILURE": "KeyError: 'no such thing'"}),
    ],
)
def test_how_a_run_ended_is_kept_whoever_ended_it(
    kept: Kept, project: Project, start_worker: StartWorker, task: str, states: dict[str, str]
) -> None:
    worker = start_worker(project, pool="prefork", concurrency=1)
    parent = under_trace(project, "parent", f"{project.name}.{task}")
    # A process that is killed takes with it what it has not sent yet, so the parent may be known by its child only.
    wait_until(lambda: [span.state for span in kept.records().get(task, ())] == [*states], 60)
    for span, error in zip(kept.records()[task], states.values(), strict=True):
        assert span.error.startswith(error)
        assert span.host == worker.hostname()
        assert [each.id for each in span.lineage] == [parent.id]
        assert span.ran is not None
    trace = kept.spans.read(TRACE)
    assert trace is not None
    assert parent.id in {span.task_id for span in trace.complete()}


def test_a_revoked_task_is_kept_whether_it_runs_or_waits(
    kept: Kept, project: Project, start_worker: StartWorker
) -> None:
    worker = start_worker(project, pool="prefork", concurrency=1)
    running = under_trace(project, "long")
    worker.wait_for_log("long began")
    kept.wait(long=["STARTED"])
    waiting = under_trace(project, "fine", expires=0.01)
    running.revoke(terminate=True)
    found = kept.wait(long=["REVOKED"], fine=["REVOKED"])
    assert found["fine"][0].task_id == waiting.id
    assert found["fine"][0].error == "TaskRevokedError: expired"
    assert found["long"][0].error == "Terminated: revoked while it ran"


def test_what_waits_for_a_worker_is_shown_with_the_moves_that_it_made(
    valkey: Database, kept: Kept, make_project: MakeProject, start_worker: StartWorker, start_celery: StartCelery
) -> None:
    project = make_project(valkey.url, BODY, conf={"task_routes": {"*.fine": {"queue": "two"}}})
    project.app.conf.dynprio_queues = ["celery", "two"]
    env = {"SETTINGS": json.dumps({"dynprio_queues": ["celery", "two"]})}
    both = Project(project.name, project.directory, env)
    start_worker(both, "one", args=["-Q", "celery"])
    under_trace(project, "parent", f"{project.name}.fine")
    (pending,) = kept.wait(parent=["SUCCESS"], fine=["PENDING"])["fine"]
    assert (pending.queue, pending.host, pending.level) == ("two", "", None)
    assert pending.level_at_publish is not None
    # Somebody puts it where it does not belong, and the reprioritizer puts it right.
    level = pending.level_at_publish
    valkey.client.lmove(f"two\x06\x16{level}", "two", "RIGHT", "LEFT")
    node = start_celery(both, "dynprio", "run", "--once", "-Q", "two")
    assert node.wait(60) == 0, node.logs()
    start_worker(both, "two", args=["-Q", "two"])
    (span,) = kept.wait(parent=["SUCCESS"], fine=["SUCCESS"])["fine"]
    assert [(move.source, move.target, move.reason) for move in span.moves] == [(0, span.level, "score")]
    assert (span.key, span.level_at_publish) == (pending.key, level)

    shown = start_celery(project, "dynprio", "trace", span.task_id, name="trace")
    assert shown.wait(60) == 0
    lines = shown.logs().splitlines()
    assert lines[0] == f"trace {TRACE}: 2 runs on 2 workers, 2 SUCCESS"
    assert f"└─ {project.name}.fine[{span.task_id}] on two@" in lines[2]
    assert f"from P0 to P{span.level}: score" in lines[3]
    as_json = start_celery(project, "dynprio", "trace", "--json", TRACE, name="json")
    assert as_json.wait(60) == 0
    parent, fine = json.loads(as_json.logs())["spans"]
    assert (fine["task_id"], fine["parent"]) == (span.task_id, parent["key"])


@pytest.mark.parametrize("wanted", ["no-such-id", "\x1b[31mred\nline"])
def test_what_is_not_known_is_said_in_one_clean_line(project: Project, start_celery: StartCelery, wanted: str) -> None:
    node = start_celery(project, "dynprio", "trace", wanted)
    assert node.wait(60) == 1
    (line,) = node.logs().splitlines()
    assert line.startswith(f"Error: No trace of {wanted!r} is kept. A task is known seconds after")


def test_nothing_is_kept_when_it_is_off(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker, start_celery: StartCelery
) -> None:
    project = make_project(valkey.url, BODY, env={"SETTINGS": json.dumps({"dynprio_trace": False})})
    worker = start_worker(project, pool="threads")
    result = under_trace(project, "broken")
    worker.wait_for_log(f"failed for good in trace {TRACE}")
    worker.kill("SIGTERM")
    assert not list(valkey.client.scan_iter("dynprio:trace*"))
    node = start_celery(project, "dynprio", "trace", result.id)
    assert node.wait(60) == 1
    assert node.logs() == f"Error: No trace of {result.id!r} is kept: dynprio_trace is False.\n"


def test_a_stopped_worker_sends_what_it_has(kept: Kept, project: Project, start_worker: StartWorker) -> None:
    worker = start_worker(project, pool="prefork", concurrency=1)
    under_trace(project, "fine").get(timeout=30)
    under_trace(project, "parent", f"{project.name}.fine").get(timeout=30)
    worker.kill("SIGTERM")
    assert len(kept.records()["fine"]) == 2


def test_tasks_run_while_the_store_is_broken(valkey: Database, project: Project, start_worker: StartWorker) -> None:
    valkey.client.set("dynprio:traces", "not a sorted set")
    worker = start_worker(project, pool="threads")
    for _ in range(3):
        under_trace(project, "fine").get(timeout=30)
    worker.wait_for_log("trace spans could not be sent")
    assert "Traceback" not in worker.logs()
    valkey.client.delete("dynprio:traces")
    under_trace(project, "fine").get(timeout=30)
    wait_until(lambda: valkey.client.exists(f"dynprio:trace:{TRACE}"))


def test_the_store_comes_back_with_the_broker(
    start_server: StartServer, make_project: MakeProject, start_worker: StartWorker
) -> None:
    broker = start_server(aof=True)
    project = make_project(broker.url(), BODY)
    start_worker(project, pool="threads")
    under_trace(project, "fine", ignore_result=True)
    with broker.client() as client:
        wait_until(lambda: client.hlen(f"dynprio:trace:{TRACE}") == 1)
    broker.restart()
    under_trace(project, "fine", ignore_result=True)
    with broker.client() as client:
        wait_until(lambda: client.hlen(f"dynprio:trace:{TRACE}") == 2, 60)


def settle() -> int:
    """How many blocks of memory Python holds."""
    gc.collect()
    return sys.getallocatedblocks()


def test_ten_thousand_tasks_every_second_failing_leave_nothing_but_what_is_bounded(
    valkey: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = Celery("many", broker=valkey.url, backend="cache+memory://", set_as_current=False)
    app.conf.update(dynprio_trace_total_spans=500)
    dynprio = DynPrio(app)
    contexts: set[str] = set()
    # pytest keeps what is logged.
    for name in ("celery.app.trace", "celery_dynprio.failures"):
        monkeypatch.setattr(logging.getLogger(name), "disabled", True)

    @app.task(bind=True, ignore_result=True)
    def work(self: Any, n: int) -> None:
        span = tracing.current()
        run = Running.of(self.request)
        assert run is not None
        assert span is run.span()
        assert span is not None
        contexts.add(span.trace_id)
        if n % 2:
            raise ValueError(n)

    tracer: Callable[..., Any] = build_tracer(work.name, work, app=app)
    recorder = dynprio.recorder

    def run(first: int, count: int) -> None:
        for n in range(first, first + count):
            tracer(str(n), (n,), {}, {"id": str(n), "delivery_info": {"priority": 0}, "hostname": "w", "retries": 0})
            assert tracing.current() is None
        sender = recorder.senders._by_process[os.getpid()]
        recorder.senders.stop()
        wait_until(lambda: not sender._thread.is_alive(), 60, "all is sent")  # what it holds is memory too

    run(0, 500)
    contexts.clear()
    before = settle()
    run(500, 10_000)
    assert len(contexts) == 10_000
    contexts.clear()
    assert settle() - before < 2_000
    keys = list(valkey.client.scan_iter("dynprio:trace:*"))
    assert 0 < sum(valkey.client.hlen(key) for key in keys) <= 500
    assert valkey.client.zcard("dynprio:traces") == len(keys)
    assert valkey.client.hlen("dynprio:trace_sizes") == len(keys) + 1
    assert os.getpid() not in recorder.senders._by_process
    dynprio.uninstall()
    app.close()
