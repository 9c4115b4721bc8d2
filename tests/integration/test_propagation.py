"""Traces through real workers: every pool, and everywhere that Celery publishes."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import metadata
from typing import Any, Final

import pytest
from celery import chain, chord, group

from celery_dynprio import tracing
from celery_dynprio.tracing import Span
from tests.conftest import MakeProject, StartCelery, StartWorker
from tests.processes import wait_until
from tests.servers import Database

BODY: Final = """
    import json, os, threading
    from concurrent.futures import ThreadPoolExecutor
    import redis
    from celery_dynprio import DynPrio, tracing
    from celery_dynprio.tracing.runs import Running

    dynprio = DynPrio(app)
    store = redis.Redis.from_url(app.conf.broker_url)

    from celery import shared_task, signals

    @signals.task_postrun.connect(weak=False)
    def look_for_leaks(**_):
        if tracing.current() is not None:
            store.rpush("leaks", str(tracing.current()))

    def note(what):
        span = tracing.current()
        fields = None if span is None else [
            span.trace_id, span.span_id, span.parent_span_id, span.attempt, span.host, span.queue, span.level,
            [[each.name.split(".")[-1], each.host] for each in span.lineage],
        ]
        store.rpush("seen", json.dumps([what, fields]))

    @app.task(bind=True)
    def work(self, *args, what="work"):
        assert Running.of(self.request).span() is tracing.current(), "request and context differ"
        note(what)

    @app.task
    def bad(*args, what="bad"):
        note(what)
        raise ValueError(what)

    @app.task
    def parent(*args):
        note("parent")
        work.delay(what="child")
        app.send_task("not.known", queue="elsewhere")
        with tracing.Executor(ThreadPoolExecutor(1)) as executor:
            executor.submit(work.delay, what="from thread").result()

    @app.task(bind=True, max_retries=2)
    def flaky(self):
        note("flaky")
        if self.request.retries < 2:
            raise self.retry(countdown=0)
        work.delay(what="after retries")

    @app.task(bind=True)
    def replaced(self):
        note("replaced")
        raise self.replace(work.si(what="replacement"))

    @app.task
    def meet(mine, other):
        before = tracing.current()
        store.rpush(other, "here")
        store.blpop(mine, timeout=20)
        assert tracing.current() is before
        note(mine)

    @shared_task
    def shared(item=None):
        note("shared")
"""

POOLS: Final = ["prefork", "threads", "solo", "gevent", "eventlet"]


class Seen:
    """What the tasks of a project noted."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def wait(self, *expected: str) -> dict[str, list[Any]]:
        """Wait for that many notes, and give them by what noted them; the last one of each."""
        wait_until(lambda: self._database.client.llen("seen") >= len(expected))
        rows: list[Any] = [json.loads(row) for row in self._database.client.lrange("seen", 0, -1)]
        assert sorted(what for what, _ in rows) == sorted(expected)
        self._database.client.delete("seen")
        self.rows: list[list[Any]] = [fields for _, fields in rows]
        return dict(rows)


def names(fields: list[Any]) -> list[str]:
    return [name for name, _ in fields[7]]


@pytest.fixture
def seen(valkey: Database) -> Seen:
    return Seen(valkey)


def check_children(module: Any, seen: Seen, web: Span) -> None:
    module.parent.delay()
    got = seen.wait("parent", "child", "from thread")
    assert got["parent"][2] == web.span_id
    assert got["child"][2] == got["from thread"][2] == got["parent"][1]
    assert names(got["parent"]) == []
    assert got["child"][7] == got["from thread"][7] == [["parent", got["parent"][4]]]
    assert got["child"][5] == "celery"
    assert got["child"][6] is not None


def check_chain(module: Any, seen: Seen, web: Span) -> None:
    work = module.work
    chain(work.si(what="1"), work.si(what="2"), work.si(what="3")).apply_async()
    got = seen.wait("1", "2", "3")
    assert [got["2"][2], got["3"][2]] == [got["1"][1], got["2"][1]]
    assert names(got["3"]) == ["work", "work"]


def check_group_and_chord(module: Any, seen: Seen, web: Span) -> None:
    work = module.work
    group(work.si(what="a"), work.si(what="b")).apply_async()
    got = seen.wait("a", "b")
    assert got["a"][2] == got["b"][2] == web.span_id
    chord([work.si(what="h1"), work.si(what="h2")])(work.si(what="body"))
    got = seen.wait("h1", "h2", "body")
    assert got["body"][2] in {got["h1"][1], got["h2"][1]}
    assert names(got["body"]) == ["work"]


def check_errbacks(module: Any, seen: Seen, web: Span) -> None:
    work, bad = module.work, module.bad
    bad.apply_async(link_error=work.si(what="link_error"))
    got = seen.wait("bad", "link_error")
    assert got["link_error"][2] == got["bad"][1]
    chord([bad.si(what="header"), work.si(what="other")])(work.si(what="body").on_error(work.si(what="errback")))
    got = seen.wait("header", "other", "errback")
    assert names(got["errback"])[0] in {"bad", "work"}


def check_link(module: Any, seen: Seen, web: Span) -> None:
    module.work.apply_async(link=[module.work.si(what="link 1"), module.work.si(what="link 2")])
    got = seen.wait("work", "link 1", "link 2")
    assert got["link 1"][2] == got["link 2"][2] == got["work"][1]


def check_maps(module: Any, seen: Seen, web: Span) -> None:
    module.shared.map(range(2)).apply_async()
    assert seen.wait("shared", "shared")["shared"][2] == web.span_id
    module.shared.starmap([(1,), (2,)]).apply_async()
    seen.wait("shared", "shared")
    module.shared.chunks([(1,), (2,), (3,)], 2).apply_async()
    seen.wait("shared", "shared", "shared")
    assert len({fields[1] for fields in seen.rows}) == 2


def check_retry(module: Any, seen: Seen, web: Span) -> None:
    module.flaky.delay()
    got = seen.wait("flaky", "flaky", "flaky", "after retries")
    runs = [fields for fields in seen.rows if fields is not got["after retries"]]
    assert [fields[3] for fields in runs] == [1, 2, 3]
    assert len({fields[1] for fields in runs}) == 3
    assert {fields[2] for fields in runs} == {web.span_id}
    assert [names(fields) for fields in runs] == [[], [], []]
    assert names(got["after retries"]) == ["flaky"]


def check_replace(module: Any, seen: Seen, web: Span) -> None:
    module.replaced.delay()
    got = seen.wait("replaced", "replacement")
    assert got["replacement"][2] == got["replaced"][1]
    assert names(got["replacement"]) == ["replaced"]


def check_not_managed(module: Any, seen: Seen, web: Span) -> None:
    module.app.send_task(module.shared.name, queue="plain")
    assert seen.wait("shared")["shared"][2] == web.span_id
    module.shared.apply_async(countdown=0.2)
    assert seen.wait("shared")["shared"][2] == web.span_id


CHECKS: Final[list[Callable[[Any, Seen, Span], None]]] = [
    check_children,
    check_chain,
    check_group_and_chord,
    check_errbacks,
    check_link,
    check_maps,
    check_retry,
    check_replace,
    check_not_managed,
]


@pytest.mark.slow
@pytest.mark.parametrize("pool", POOLS)
def test_everywhere_celery_goes(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker, seen: Seen, pool: str
) -> None:
    if pool in {"gevent", "eventlet"}:
        pytest.importorskip(pool)
    project = make_project(valkey.url, BODY)
    worker = start_worker(project, pool=pool, concurrency=2, args=["-Q", "celery,plain"])
    module = project.load()
    for check in CHECKS:
        with tracing.use() as web:
            check(module, seen, web)
            assert {fields[0] for fields in seen.rows} == {web.trace_id}, check.__name__
            assert {fields[4] for fields in seen.rows} == {worker.hostname()}
    if pool != "solo":
        with tracing.use() as one:
            module.meet.delay("m1", "m2")
        with tracing.use() as two:
            module.meet.delay("m2", "m1")
        got = seen.wait("m1", "m2")
        assert [got["m1"][0], got["m2"][0]] == [one.trace_id, two.trace_id]
    # Nothing is left of them in the worker: what comes without a trace starts its own.
    for n in range(10):
        (module.bad if n % 2 else module.work).delay(what="alone")
    seen.wait(*["alone"] * 10)
    assert len({fields[0] for fields in seen.rows}) == 10
    assert {fields[2] for fields in seen.rows} == {""}
    assert not valkey.client.lrange("leaks", 0, -1)
    assert "Signal handler" not in worker.logs()


HOSTILE: Final[list[dict[str, Any]]] = [
    {"traceparent": "0" * 1_000_000},
    {"traceparent": "00-x\nERROR forged\n"},
    {"traceparent": ["00"], "tracestate": {"a": 1}, "dynprio_lineage": "text"},
    {"dynprio_lineage": [[1] * 6] * 1000},
    {"dynprio_lineage": ["0", [["a\nb", None, {}, -1, "x", 1e400]] * 100, 7]},
    {"_dynprio_run": "mine", "is_eager": True},
]


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_hostile_headers_break_no_task(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker, pool: str
) -> None:
    # The publisher has no add-on, so that the worker gets the headers as they are.
    project = make_project(valkey.url, BODY)
    worker = start_worker(project, pool=pool, concurrency=1)
    plain = make_project(valkey.url, f'@app.task(name="{project.name}.work")\ndef work(): pass').load()
    for headers in HOSTILE:
        plain.work.apply_async(headers=headers).get(timeout=30)
    assert "forged\n" not in worker.logs()
    assert "Signal handler" not in worker.logs()


def test_each_firing_of_beat_starts_a_trace(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker, start_celery: StartCelery, seen: Seen
) -> None:
    schedule = '\napp.conf.beat_schedule = {"often": {"task": work.name, "schedule": 0.2}}\n'
    project = make_project(valkey.url, BODY + schedule.replace("\n", "\n    "))
    beat = start_celery(project, "beat", "--schedule", str(project.directory / "schedule"), name="beat")
    start_worker(project, pool="solo")
    wait_until(lambda: valkey.client.llen("seen") >= 3)
    beat.kill("SIGTERM")
    rows = [json.loads(row)[1] for row in valkey.client.lrange("seen", 0, -1)]
    assert len({fields[0] for fields in rows}) == len(rows)
    assert {fields[2] for fields in rows} == {""}


OTEL: Final = """
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.instrumentation.celery import CeleryInstrumentor

    def instrument():
        trace.set_tracer_provider(TracerProvider())
        CeleryInstrumentor().instrument()

    if FIRST:
        instrument()
"""

OTEL_TASKS: Final = """
    if not FIRST:
        instrument()

    @app.task(bind=True, max_retries=1)
    def outer(self):
        ours, theirs = tracing.current(), trace.get_current_span().get_span_context()
        store.rpush("otel", f"{ours.trace_id} {ours.span_id} {theirs.trace_id:032x} {theirs.span_id:016x}")
        if self.request.retries < 1:
            raise self.retry(countdown=0)
        inner.delay()

    @app.task
    def inner():
        ours, theirs = tracing.current(), trace.get_current_span().get_span_context()
        store.rpush("otel", f"{ours.trace_id} {ours.span_id} {theirs.trace_id:032x} {theirs.span_id:016x}")
"""


@pytest.mark.parametrize("order", ["first", "second"])
def test_one_trace_with_the_instrumentation_of_opentelemetry(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker, order: str
) -> None:
    try:
        metadata.version("opentelemetry-instrumentation-celery")  # imported here, it would stay for other tests
    except metadata.PackageNotFoundError:
        pytest.skip("opentelemetry-instrumentation-celery is not installed")
    project = make_project(valkey.url, f"    FIRST = {order == 'first'}\n{OTEL}{BODY}{OTEL_TASKS}")
    start_worker(project, pool="solo")
    # Started by the instrumented worker itself, and by a process that knows nothing of either.
    plain = make_project(valkey.url, f'@app.task(name="{project.name}.outer")\ndef outer(): pass').load()
    plain.outer.delay()
    wait_until(lambda: valkey.client.llen("otel") == 3)
    rows = [row.decode().split() for row in valkey.client.lrange("otel", 0, -1)]  # type: ignore[union-attr]
    assert len({trace for ours, _, theirs, _ in rows for trace in (ours, theirs)}) == 1
    assert len({span for _, span, _, _ in rows}) == 3
    if order == "first":
        assert [ours for _, ours, _, _ in rows] == [theirs for _, _, _, theirs in rows]
