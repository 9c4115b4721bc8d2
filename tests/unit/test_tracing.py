"""The words of tracing, what is current where, and what may stand in a header."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from celery import Celery, signals
from celery._state import get_current_worker_task
from hypothesis import given
from hypothesis import strategies as st

from celery_dynprio import DynPrio, tracing
from celery_dynprio.levels import Scale
from celery_dynprio.tracing import Ancestor, Span, context, propagation
from celery_dynprio.tracing.ids import new_ids
from celery_dynprio.tracing.runs import Running, level_at_publish, span_of_headers
from celery_dynprio.tracing.span import MAX_LINEAGE, read
from celery_dynprio.untrusted import MAX_TEXT, clean
from tests.traced import Tracing

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADER = f"00-{TRACE}-{SPAN}-01"

#: What the tasks of an app saw, by name.
Seen = list[tuple[str, "Span | None"]]


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app with the add-on, whose eager tasks carry traces."""
    made = Celery("shop", broker="redis://localhost:1/0", set_as_current=False)
    dynprio = DynPrio(made)
    yield made
    dynprio.uninstall()
    made.close()


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    yield
    assert tracing.current() is None


def publish(headers: dict[str, Any] | None = None, **properties: Any) -> dict[str, Any]:
    """What the receivers make of the headers of a message."""
    made: dict[str, Any] = {"id": "x", "task": "t", "retries": 0, "root_id": "x", **(headers or {})}
    signals.before_task_publish.send(sender="t", headers=made, properties=properties, body=((), {}, {}))
    return made


# The header of web code


def test_a_valid_header_is_gone_on_from() -> None:
    with tracing.use(HEADER, "vendor=1") as span:
        assert tracing.current() is span
        assert (span.trace_id, span.parent_span_id, span.tracestate) == (TRACE, SPAN, "vendor=1")
        assert span.span_id not in {SPAN, ""}


INVALID = [
    None,
    7,
    b"00-1",
    "",
    "00-" + "0" * 32 + "-b7ad6b7169203331-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"ff-{TRACE}-{SPAN}-01",
    f"00-{TRACE.upper()}-{SPAN}-01",
    f"00-{TRACE}-{SPAN}-01-more",
    HEADER + "\n",
    HEADER + "\nERROR forged",
    "0" * 1_000_000,
    [HEADER],
]


@pytest.mark.parametrize("header", INVALID, ids=lambda header: repr(header)[:30])
def test_any_other_header_starts_a_trace(header: object) -> None:
    with tracing.use(header) as first, tracing.use(header) as second:
        assert TRACE not in {first.trace_id, second.trace_id}
        assert first.trace_id != second.trace_id
        assert first.parent_span_id == ""


def test_later_versions_may_say_more() -> None:
    span = read(f"01-{TRACE}-{SPAN}-01-more")
    assert span is not None
    assert span.trace_id == TRACE


@pytest.mark.parametrize("state", [None, 7, "a\nb", "x" * 1000])
def test_a_bad_tracestate_is_left_out(state: object) -> None:
    span = read(HEADER, state)
    assert span is not None
    assert span.tracestate == ""


def test_blocks_nest_and_end_also_by_an_exception() -> None:
    with tracing.use() as outer:
        with pytest.raises(KeyError), tracing.use(HEADER):
            raise KeyError
        assert tracing.current() is outer


def test_ids_differ_whatever_a_task_seeds() -> None:
    ids = set()
    for _ in range(2):
        random.seed(42)
        ids.add(new_ids())
    assert len(ids) == 2


# Threads and asyncio


def test_a_wrapped_function_keeps_trace_task_and_request(app: Celery) -> None:
    @app.task(bind=True)
    def work(self: Any) -> list[object]:
        mine = [tracing.current(), get_current_worker_task(), self.request]

        def look() -> list[object]:
            worker_task = get_current_worker_task()
            return [tracing.current(), worker_task, worker_task.request]

        plain, wrapped = look, tracing.wrap(look)
        with ThreadPoolExecutor(1) as pool:
            wrapped_saw = pool.submit(wrapped).result()
            after = pool.submit(lambda: (tracing.current(), get_current_worker_task())).result()
        return [mine == wrapped_saw, after == (None, None), plain() == mine]

    assert work.apply().get() == [True, True, True]


def test_a_wrapped_function_leaves_the_thread_when_it_raises(app: Celery) -> None:
    @app.task
    def work() -> None:
        def fail() -> None:
            raise KeyError("of its own")

        with ThreadPoolExecutor(1) as pool:
            with pytest.raises(KeyError, match="of its own"):
                pool.submit(tracing.wrap(fail)).result()
            assert pool.submit(get_current_worker_task).result() is None

    work.apply(throw=True)


def test_an_executor_keeps_the_context_of_each_submit_and_map() -> None:
    def look(_: object = None) -> Span | None:
        return tracing.current()

    with tracing.Executor(ThreadPoolExecutor(2)) as executor:
        with tracing.use() as first:
            one = executor.submit(look)
        with tracing.use() as second:
            many = list(executor.map(look, range(5)))
        assert one.result() is first
        assert many == [second] * 5
        assert executor.submit(look).result() is None
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(look)


def test_a_wrapped_function_may_run_in_many_threads_at_once() -> None:
    barrier = threading.Barrier(4, timeout=10)

    def look() -> Span | None:
        barrier.wait()
        return tracing.current()

    with tracing.use() as span:
        wrapped = tracing.wrap(look)
    with ThreadPoolExecutor(4) as pool:
        assert [each.result() for each in [pool.submit(wrapped) for _ in range(4)]] == [span] * 4


def test_asyncio_keeps_it_by_itself() -> None:
    async def look() -> Span | None:
        return tracing.current()

    async def each_its_own(header: str | None) -> bool:
        with tracing.use(header) as span:
            in_task = await asyncio.create_task(look())
            in_thread = await asyncio.to_thread(tracing.current)
            return in_task is in_thread is span

    async def main() -> list[bool]:
        return await asyncio.gather(*(each_its_own(header) for header in (HEADER, None, None)))

    assert asyncio.run(main()) == [True, True, True]


# What is published


def test_a_message_names_its_own_span_and_its_parent(app: Celery) -> None:
    with tracing.use(HEADER, "vendor=1") as web:
        headers = publish(priority=3)
    span = span_of_headers(headers)
    assert (span.trace_id, span.parent_span_id, span.tracestate) == (TRACE, web.span_id, "vendor=1")
    assert span.span_id not in {web.span_id, SPAN}
    assert span.lineage == ()
    assert level_at_publish(headers) == 3
    assert json.loads(json.dumps(headers)) == headers


def test_without_any_context_each_message_starts_a_trace(app: Celery) -> None:
    first, second = span_of_headers(publish()), span_of_headers(publish())
    assert first.trace_id != second.trace_id
    assert first.parent_span_id == second.parent_span_id == ""


def test_a_header_that_the_caller_gave_is_gone_on_from(app: Celery) -> None:
    headers = publish({"traceparent": HEADER})
    span = span_of_headers(headers)
    assert span.trace_id == TRACE
    assert (span.span_id, span.parent_span_id) == (headers["traceparent"][36:52], SPAN)
    assert span.span_id != SPAN


def test_two_apps_in_one_process_write_one_header(app: Celery) -> None:
    other = Celery("other", broker="amqp://", set_as_current=False)
    others = Tracing(other, lambda: pytest.fail("not asked"))
    others.connect()
    try:
        with tracing.use() as web:
            assert span_of_headers(publish()).parent_span_id == web.span_id
            first = publish()
            again = publish(first)  # as a retry brings them
            assert again["traceparent"] != first["traceparent"]
    finally:
        others.disconnect()
        other.close()


def test_disconnect_undoes_connect(app: Celery) -> None:
    seen: list[Span | None] = []

    @app.task
    def look() -> None:
        seen.append(tracing.current())

    used = (signals.before_task_publish, signals.task_retry)
    connected = [len(signal.receivers) for signal in used]
    again = Tracing(app, lambda: pytest.fail("not asked"))
    again.connect()
    assert [len(signal.receivers) for signal in used] == connected
    for _ in range(2):
        again.disconnect()
        assert [len(signal.receivers) for signal in used] == [count - 1 for count in connected]
    look.apply()
    assert seen == [None]


def running(**fields: Any) -> Span:
    known: dict[str, Any] = {"task_id": "x", "task_name": "a", "host": "w1", "level": 2, "wait": 0.5, "attempt": 1}
    return Span(TRACE, SPAN, "1" * 16, **{**known, "started": 10.0, **fields})


def test_a_task_is_an_ancestor_of_what_it_publishes(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery_dynprio.tracing.propagation.time", SimpleNamespace(time=lambda: 12.25))
    with tracing.resume(running(lineage=(Ancestor("root", "r"),))):
        span = span_of_headers(publish({"id": "y"}))
    assert span.parent_span_id == SPAN
    assert span.lineage == (Ancestor("root", "r"), Ancestor("a", "x", "w1", 2, 0.5, 2.25))


def test_a_retry_is_a_sibling_of_the_run_before_it(app: Celery) -> None:
    with tracing.resume(running(lineage=(Ancestor("root", "r"),))):
        stale: dict[str, Any] = {"traceparent": HEADER, "tracestate": "old=1", "dynprio_lineage": [None, [], "2" * 16]}
        headers = publish({**stale, "retries": 1})
    span = span_of_headers(headers)
    assert (span.trace_id, span.parent_span_id, span.attempt) == (TRACE, "1" * 16, 2)
    assert span.span_id != SPAN
    assert span.lineage == (Ancestor("root", "r"),)
    assert "tracestate" not in headers


def test_what_replaces_a_task_is_its_child(app: Celery) -> None:
    with tracing.resume(running(attempt=2)):
        span = span_of_headers(publish({"retries": 0}))
    assert span.parent_span_id == SPAN
    assert [each.id for each in span.lineage] == ["x"]


def test_a_long_lineage_keeps_the_root_and_the_nearest(app: Celery) -> None:
    span = running(task_id="0")
    for n in range(1, 40):
        with tracing.resume(span):
            headers = publish({"id": str(n)})
        span = span_of_headers(headers, started=10.0)
    assert [each.id for each in span.lineage] == ["0", *map(str, range(24, 39))]


# What is read


def test_a_message_without_a_trace_gets_the_same_one_everywhere() -> None:
    old = {"id": "x", "root_id": "r", "retries": 0}
    span = span_of_headers(old)
    assert span == span_of_headers(dict(old))
    assert read(span.traceparent) is not None
    retried, sibling = span_of_headers({**old, "retries": 1}), span_of_headers({**old, "id": "y"})
    assert {span.trace_id} == {retried.trace_id, sibling.trace_id}
    assert len({span.span_id, retried.span_id, sibling.span_id}) == 3


def test_level_queue_and_wait_come_from_the_delivery() -> None:
    headers = {"id": "x", "task": "t", "dynprio": {"at": 100.0}}
    span = span_of_headers(
        headers, {"priority": 7, "routing_key": "q"}, scale=Scale.of((0, 3, 6, 9)), host="w", started=102.5
    )
    assert (span.level, span.queue, span.wait, span.host, span.started) == (2, "q", 2.5, "w", 102.5)
    headers["dynprio"] = {"at": 100.0, "mv": [[1, 0, 9, 0.1, "score"], [2, 9, 2, 0.9, "score"]]}
    assert span_of_headers(headers, {"priority": 0}, scale=Scale.of(range(10))).level == 2, "where it was last moved to"
    assert span_of_headers(headers, {"priority": 7}, scale=Scale.of((0, 3))).level == 1, "there is no such level here"
    early = span_of_headers(headers, {"priority": 7}, started=99.0)
    assert (early.level, early.wait) == (None, 0.0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda each: st.lists(each, max_size=7) | st.dictionaries(st.text(max_size=3), each, max_size=3),
    max_leaves=20,
)
NAMES = ["id", "task", "root_id", "retries", "traceparent", "tracestate", "dynprio_lineage", "dynprio"]
#: Few rows, many times: what is longer than a lineage may be is not drawn one by one.
ROWS = st.builds(list.__mul__, st.lists(st.lists(JSON, min_size=6, max_size=6), max_size=3), st.integers(1, 20))
FORGED = st.tuples(JSON, ROWS, JSON).map(list)


@given(st.dictionaries(st.sampled_from(NAMES), JSON | FORGED), st.none() | JSON)
def test_whatever_is_in_a_message_gives_a_bounded_printable_span(headers: dict[str, Any], delivery: object) -> None:
    span = span_of_headers(headers, delivery, scale=Scale.of((0, 3, 6, 9)), host="w", started=1.0)
    assert read(span.traceparent) is not None
    assert len(span.lineage) <= MAX_LINEAGE
    texts = [span.task_id, span.task_name, span.queue, *(t for each in span.lineage for t in (each.name, each.id))]
    assert all(text == "" or (text.isprintable() and len(text) <= MAX_TEXT) for text in texts)
    level_at_publish(headers)


def test_deep_nesting_and_a_megabyte() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    big = "x" * 1_000_000
    span = span_of_headers({"id": big, "root_id": deep, "task": big, "traceparent": big, "dynprio_lineage": deep})
    assert max(map(len, (span.task_id, span.task_name))) == MAX_TEXT
    while deep:  # so that freeing it does not recurse
        deep = deep.pop()


def test_texts_are_one_line() -> None:
    assert clean("a\nERROR forged\x1b[2J") == "a\\nERROR forged\\x1b[2J"
    assert len(clean("\n" * 500)) == MAX_TEXT


# Eager tasks, and what stays after many


def span_of(request: Any) -> Span:
    run = Running.of(request)
    assert run is not None
    return run.span()


def test_eager_tasks_are_traced(app: Celery) -> None:
    seen: Seen = []

    @app.task(bind=True)
    def inner(self: Any) -> None:
        seen.append((self.name, span_of(self.request)))

    @app.task(bind=True)
    def outer(self: Any) -> None:
        inner.apply()
        seen.append((self.name, span_of(self.request)))
        assert tracing.current() is span_of(self.request)

    with tracing.use(HEADER) as web:
        outer.apply(throw=True)
        assert tracing.current() is web
    (_, first), (_, second) = seen
    assert first is not None
    assert second is not None
    assert first.trace_id == second.trace_id == TRACE
    assert (first.parent_span_id, second.parent_span_id) == (second.span_id, web.span_id)
    assert [each.name for each in first.lineage] == [outer.name]


def test_eager_retries_stay_in_the_trace(app: Celery) -> None:
    seen: list[Span] = []

    @app.task(bind=True, max_retries=3)
    def flaky(self: Any) -> None:
        seen.append(span_of(self.request))
        if self.request.retries < 2:
            raise self.retry(countdown=0)

    flaky.apply()
    assert [span.attempt for span in seen] == [1, 2, 3]
    assert len({span.trace_id for span in seen}) == 1
    assert len({span.span_id for span in seen}) == 3
    assert all(span.lineage == () for span in seen)


def test_a_task_that_leaves_a_span_behind_leaves_none_to_the_next(app: Celery) -> None:
    @app.task
    def untidy() -> None:
        context.enter(running())

    untidy.apply()
    assert tracing.current() is None


# What is followed of a run


@pytest.fixture
def followed(app: Celery) -> list[Running]:
    """The runs that a follower is given."""
    installed = DynPrio.of(app)
    assert installed is not None
    runs: list[Running] = []
    installed._propagation.follower = runs.append
    return runs


def trace_task(task: Any, task_id: str, **headers: Any) -> None:
    """Run a task as a worker's pool does."""
    from celery.app.trace import build_tracer  # noqa: PLC0415 - only workers have it

    build_tracer(task.name, task, app=task.app)(task_id, (), {}, {"id": task_id, "retries": 0, **headers})


def test_a_run_makes_no_span_of_itself_until_somebody_asks(
    app: Celery, followed: list[Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("opentelemetry.trace")  # which is imported now, and used by nobody
    monkeypatch.delitem(sys.modules, propagation._INSTRUMENTATION, raising=False)
    seen: list[Any] = []

    @app.task
    def work() -> None:
        seen.append(followed[0]._span)

    trace_task(work, "1")
    assert [*seen, followed[0]._span] == [None, None]
    assert followed[0].span() is followed[0].span()


def test_the_instrumentation_of_opentelemetry_is_told_the_span_of_a_message_without_one(
    app: Celery, followed: list[Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, propagation._INSTRUMENTATION, ModuleType("as it is where it is used"))
    seen: list[Any] = []

    @app.task(bind=True)
    def work(self: Any) -> None:
        seen.append(self.request.traceparent)

    trace_task(work, "1")
    assert seen == [followed[0].span().traceparent]


@pytest.mark.usefixtures("followed")
def test_eager_tasks_have_spans_of_their_own_in_the_span_of_opentelemetry(app: Celery) -> None:
    trace = pytest.importorskip("opentelemetry.sdk.trace")
    kind = pytest.importorskip("opentelemetry.trace").SpanKind.CONSUMER
    seen: list[Any] = []

    @app.task(bind=True)
    def inner(self: Any) -> None:
        seen.append(span_of(self.request))

    @app.task(bind=True)
    def outer(self: Any) -> None:
        seen.append(span_of(self.request))
        inner.apply(throw=True)

    with trace.TracerProvider().get_tracer("t").start_as_current_span("outer", kind=kind) as active:
        trace_task(outer, "1")
    first, second = seen
    assert int(first.span_id, 16) == active.get_span_context().span_id
    assert (second.trace_id, second.parent_span_id) == (first.trace_id, first.span_id)
    assert second.span_id != first.span_id


def test_runs_in_runs_end_each_for_itself(app: Celery, followed: list[Running]) -> None:
    seen: list[Any] = []

    @app.task(bind=True)
    def work(self: Any, depth: int) -> None:
        if depth:
            work.apply((depth - 1,), task_id="1")  # eager, and of the same name and id
        seen.append((depth, context.current_or_deferred() is Running.of(self.request)))

    @app.task(bind=True)
    def outer(self: Any) -> None:
        work.apply((2,), task_id="1")
        seen.append(("outer", context.current_or_deferred() is Running.of(self.request) is followed[-1]))

    trace_task(outer, "1")
    assert seen == [(0, True), (1, True), (2, True), ("outer", True)]
    assert [run.task for run in followed] == [outer], "eager ones are nobody's business"


@pytest.mark.parametrize("connected", [False, True])
def test_a_run_of_another_app_is_not_ours(app: Celery, followed: list[Running], connected: object) -> None:
    other = Celery("other", broker="redis://localhost:1/0", set_as_current=False)

    @other.task
    def inner() -> None: ...

    @app.task
    def outer() -> None:
        trace_task(inner, "1")

    others = Tracing(other)
    if connected:
        others.connect()
    try:
        trace_task(inner, "1")
        trace_task(outer, "1")
    finally:
        others.disconnect()
    (run,) = followed
    assert run.task is outer
    assert (report := run.report()) is not None
    assert report.state == "SUCCESS"


def test_a_run_may_end_in_another_context_than_it_began(app: Celery, followed: list[Running]) -> None:
    @app.task
    def work() -> None:
        followed[0].report()
        context.enter(None)

    trace_task(work, "1")
    started, ended = followed
    assert started is ended
    assert (report := ended.report()) is not None
    assert report.state == "SUCCESS"


def test_a_run_that_was_not_seen_to_start_is_left_alone(app: Celery, followed: list[Running]) -> None:
    @app.task
    def work() -> None: ...

    work.push_request(id="1")
    try:
        signals.task_postrun.send(sender=work, task_id="1", task=work, state="SUCCESS", retval=None)
    finally:
        work.pop_request()
    assert followed == []
