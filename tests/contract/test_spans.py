"""What every trace store does, and what the one in Redis keeps within bounds."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from celery_dynprio.models import Moved
from celery_dynprio.ports.spans import Spans
from celery_dynprio.tracing import Ancestor
from celery_dynprio.tracing.records import SpanRecord
from tests.contract.spans import every_store, redis_spans  # noqa: F401 - a fixture
from tests.processes import wait_until
from tests.servers import Database


def record(n: int = 1, trace: int = 0, state: str = "SUCCESS", **known: Any) -> SpanRecord:
    """The nth run of a trace."""
    return SpanRecord(f"{trace:032x}", f"{trace:08x}{n:08x}", f"task-{trace}-{n}", "proj.work", state, **known)


FULL = record(
    span_id="a" * 16,
    parent_span_id="b" * 16,
    parent_task_id="task-0",
    queue="celery",
    host="w@h",
    attempt=2,
    published=1000.0,
    started=1001.5,
    level_at_publish=0,
    level=3,
    wait=0.0,
    ran=0.25,
    error="ValueError: no",
    lineage=(Ancestor("proj.root", "task-9", "v@h", 3, 0.5, 1.0), Ancestor("proj.a", "task-0")),
    moves=(Moved(1000.5, 3, 0, 0.75, "score"), Moved(1001.0, -1, 3, 0.5, "refill")),
)


def read(store: Spans, trace_id: str) -> dict[str, SpanRecord]:
    found = store.read(trace_id)
    return {} if found is None else {span.key: span for span in found.spans}


def stored(client: redis.Redis) -> int:
    """All spans that are there."""
    return sum(client.hlen(key) - client.hexists(key, "") for key in client.scan_iter("dynprio:trace:*"))


def test_what_is_added_is_read_by_trace_and_by_task(store: Spans) -> None:
    store.add([FULL, record(2), record(3, trace=7)])
    expected = {FULL.key: FULL, record(2).key: record(2)}
    assert read(store, FULL.trace_id) == expected
    assert read(store, "task-0-2") == expected
    assert read(store, "task-7-3") == {record(3, trace=7).key: record(3, trace=7)}


@pytest.mark.parametrize(
    "wanted", ["", "task", "task-0-", "*", "task-0-?", "task-0-1 *", "f" * 32, "\ud800", "x\n" * 10**5]
)
def test_what_is_not_there_is_not_found(store: Spans, wanted: str) -> None:
    store.add([record(1)])
    assert store.read(wanted) is None


@pytest.mark.parametrize("task_id", ["a*b", "[abc]", "a?", "back\\slash", "^x", "two words"])
def test_any_task_id_is_found_and_nothing_like_it(store: Spans, task_id: str) -> None:
    store.add([record(1, trace=1)._replace(task_id="a1b"), record(1)._replace(task_id=task_id)])
    assert [span.task_id for span in read(store, task_id).values()] == [task_id]


def test_each_record_that_was_stored_is_counted(store: Spans) -> None:
    store.add([record(1), record(2), record(1, trace=1)])
    store.add([record(1)])
    assert (store.taken, store.dropped) == (4, 0)


def test_ids_of_traces_and_tasks_are_completed(store: Spans) -> None:
    store.add([record(1, trace=7), record(2, trace=7), record(1, trace=8)])
    assert store.ids_with("task-7-") == {"task-7-1", "task-7-2"}
    assert store.ids_with("0" * 31) == {record(trace=7).trace_id, record(trace=8).trace_id}
    assert store.ids_with("x") == set()


def test_dropped_records_are_counted_by_cause_as_totals_grow(store: Spans) -> None:
    assert store.dropped_counts() == {"no_room": 0, "not_sent": 0}
    store.add_dropped({"no_room": 3, "not_sent": 0})
    store.add_dropped({"no_room": 3, "not_sent": 2})
    assert store.dropped_counts() == {"no_room": 3, "not_sent": 2}


def test_later_knowledge_replaces_earlier_whichever_comes_first(store: Spans) -> None:
    states = ["PENDING", "STARTED", "SUCCESS", "FAILURE"]
    pairs = list(itertools.product(states, repeat=2))
    for told in zip(*pairs, strict=True):
        store.add([record(n, state=state) for n, state in enumerate(told)])
    found = read(store, record().trace_id)
    kept = [found[record(n).key].state for n in range(len(pairs))]
    assert kept == [max(pair, key=states.index) for pair in pairs]


def test_runs_that_share_a_span_id_are_kept_apart(store: Spans) -> None:
    forged = [record(n)._replace(key="k" * 16) for n in range(3)]
    store.add(forged)
    found = store.read(record().trace_id)
    assert found is not None
    assert sorted(span.task_id for span in found.spans) == [span.task_id for span in forged]


def test_a_rejected_message_may_come_again(store: Spans) -> None:
    for state in ("STARTED", "REJECTED", "STARTED"):
        store.add([record(1, state=state)])
    assert [span.state for span in read(store, record().trace_id).values()] == ["STARTED"]


def test_of_two_equal_ones_the_later_is_kept(store: Spans) -> None:
    store.add([record(1, state="STARTED", host="died")])
    store.add([record(1, state="STARTED", host="took over")])
    assert [span.host for span in read(store, record().trace_id).values()] == ["took over"]


def test_a_run_that_is_published_again_stays_what_it_became(store: Spans) -> None:
    store.add([record(1, state="FAILURE")])
    store.add([record(1, state="PENDING"), record(1, state="STARTED")])
    assert [span.state for span in read(store, record().trace_id).values()] == ["FAILURE"]


def test_the_newest_trace_that_has_a_task_is_found(valkey: Database) -> None:
    spans = redis_spans(valkey.url)
    for trace in range(3):
        spans.add([record(1, trace=trace)._replace(task_id="again")])
    assert set(read(spans, "again")) == {record(1, trace=2).key}
    spans.close()


def test_a_trace_has_a_bound_and_keeps_a_tenth_of_it_for_failures(server: Database) -> None:
    spans = redis_spans(server.url, spans=20)
    spans.add([record(n) for n in range(100)])
    spans.add([record(n, state="FAILURE") for n in range(100, 200)])
    found = spans.read(record().trace_id)
    assert found is not None
    states = [span.state for span in found.spans]
    assert (states.count("SUCCESS"), states.count("FAILURE")) == (18, 2)
    assert found.dropped == spans.dropped == 180
    spans.close()


def test_all_traces_together_have_a_bound(server: Database) -> None:
    spans = redis_spans(server.url, total=100)
    for trace in range(200):
        spans.add([record(n, trace=trace) for n in range(trace % 7 + 1)])
        assert stored(server.client) <= 100
    assert int(server.client.hget("dynprio:trace_sizes", "") or 0) == stored(server.client) > 90
    assert read(spans, record(1, trace=199).trace_id)
    assert not read(spans, record(1, trace=0).trace_id)
    assert server.client.zcard("dynprio:traces") == len(list(server.client.scan_iter("dynprio:trace:*"))) < 30
    spans.close()


def test_many_traces_at_once_are_bounded_too(valkey: Database) -> None:
    spans = redis_spans(valkey.url, total=100)
    spans.add([record(1, trace=trace) for trace in range(1000)])
    assert stored(valkey.client) == 100
    spans.close()


def test_one_trace_may_fill_the_store_and_not_more(valkey: Database) -> None:
    spans = redis_spans(valkey.url, spans=1000, total=50)
    spans.add([record(n, state="FAILURE") for n in range(300)])
    assert stored(valkey.client) == 50
    spans.close()


def test_a_trace_is_forgotten_when_its_time_is_over(server: Database) -> None:
    old, young = redis_spans(server.url, ttl=0.05), redis_spans(server.url, ttl=1000)
    old.add([record(n) for n in range(10)])
    wait_until(lambda: old.read(record().trace_id) is None)
    young.add([record(1, trace=1)])
    assert server.client.pttl(f"dynprio:trace:{1:032x}") > 900_000
    aged = redis_spans(server.url, ttl=0.05)
    wait_until(lambda: not server.client.exists(f"dynprio:trace:{0:032x}"))
    server.client.zadd("dynprio:traces", {f"{9:032x}": 1.0})  # its time was over long ago
    server.client.hset("dynprio:trace_sizes", f"{9:032x}", 3)
    aged.add([record(1, trace=2)])
    assert server.client.zscore("dynprio:traces", f"{9:032x}") is None
    assert not server.client.hexists("dynprio:trace_sizes", f"{9:032x}")
    for spans in (old, young, aged):
        spans.close()


def test_another_app_s_shorter_time_leaves_the_longer_one_alone(server: Database) -> None:
    long, short = redis_spans(server.url, ttl=1000), redis_spans(server.url, ttl=0.05)
    long.add([record(n) for n in range(5)])
    short.add([record(1, trace=1)])
    wait_until(lambda: short.read(f"{1:032x}") is None)
    short.add([record(1, trace=2)])
    assert len(read(long, "task-0-3")) == 5
    assert int(server.client.hget("dynprio:trace_sizes", "") or 0) == 6
    assert server.client.pttl("dynprio:traces") > 900_000
    for spans in (long, short):
        spans.close()


@pytest.mark.parametrize("lost", ["dynprio:traces", "dynprio:trace_sizes", f"dynprio:trace:{0:032x}"])
def test_the_store_goes_on_when_one_of_its_keys_is_lost(server: Database, lost: str) -> None:
    spans = redis_spans(server.url, spans=20, total=40)
    spans.add([record(n, trace=trace) for trace in range(2) for n in range(18)])
    server.client.delete(lost)
    spans.add([record(n, trace=trace) for trace in (0, 5) for n in range(20, 25)])
    assert {record(n).key for n in range(20, 25)} <= read(spans, record().trace_id).keys() or lost.endswith("sizes")
    assert len(read(spans, f"{5:032x}")) == 5
    if ":trace:" in lost:
        assert int(server.client.hget("dynprio:trace_sizes", "") or 0) == stored(server.client)
    spans.close()


@pytest.mark.parametrize("broken", [f"dynprio:trace:{1:032x}", "dynprio:trace_sizes"])
def test_a_call_that_fails_half_way_leaves_nothing_that_is_never_forgotten(server: Database, broken: str) -> None:
    spans = redis_spans(server.url)
    spans.add([record(1, trace=7)])
    server.client.delete(broken)
    server.client.set(broken, "not a hash")
    with pytest.raises(redis.ResponseError):
        spans.add([record(1), record(1, trace=1), record(1, trace=2)])
    hashes = list(server.client.scan_iter("dynprio:trace:*", _type="hash"))
    kept = f"dynprio:trace:{record().trace_id}".encode() in hashes
    assert kept is (":trace:" in broken)  # what is broken from the start is found before anything is written
    assert {key.rpartition(b":")[2] for key in hashes} <= set(server.client.zrange("dynprio:traces", 0, -1))
    assert all(server.client.pttl(key) > 0 for key in hashes)
    assert spans.taken == 1
    spans.close()


def test_what_cannot_be_dropped_does_not_keep_the_sender_busy(valkey: Database) -> None:
    spans = redis_spans(valkey.url, total=10)
    valkey.client.zadd("dynprio:traces", {b"\xff": 2e9})
    valkey.client.hset("dynprio:trace_sizes", mapping={"": 50, b"\xff": 50})
    spans.add([record(1)])
    assert spans.taken == 1
    spans.close()


def test_nothing_stays_in_an_idle_system(valkey: Database) -> None:
    spans = redis_spans(valkey.url, ttl=1.0)
    spans.add([record(n, trace=n) for n in range(10)])
    assert len(valkey.client.keys("dynprio:trace:*")) == 10
    wait_until(lambda: not valkey.client.keys())  # the server counts what is over until it comes by
    spans.close()


def test_only_prefixed_keys_are_touched(valkey: Database) -> None:
    spans = redis_spans(valkey.url, prefix="shop:", total=1)
    spans.add([record(1), record(1, trace=1)])
    written = list(valkey.client.scan_iter())
    assert all(key.startswith(b"shop:dynprio:trace") for key in written)
    assert sum(valkey.client.hlen(key) for key in written if b":trace:" in key) == 1
    spans.close()


HOSTILE = [b"", b"2", b"2null", b"2[]", b"2{}", b"9{", b'2{"state": 5}', b"\xff\xfe", b"2" + b"[" * 10_000]


def test_what_somebody_else_wrote_is_passed_over(server: Database) -> None:
    spans = redis_spans(server.url)
    spans.add([record(1)])
    key = f"dynprio:trace:{record().trace_id}"
    for n, value in enumerate(HOSTILE):
        server.client.hset(key, f"odd {n}", value)
    server.client.hset(key, "nobody's", "2" + record(5).to_json())
    server.client.hset(key, "", "many")
    server.client.hset("dynprio:trace_sizes", "", "nonsense")
    server.client.zadd("dynprio:traces", {b"\xff": 1e12, b"\x1b]0;odd\x07": 1e12})
    server.client.hset("dynprio:trace:\x1b]0;odd\x07", "known k", "2" + record(5).to_json())
    found = spans.read(record().trace_id)
    assert found is not None
    assert (list(found.spans), found.dropped) == ([record(1)], 0)
    assert spans.read("nobody") is None
    assert spans.read("known") is None, "its trace id would be written to a terminal"
    spans.close()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(known=st.fixed_dictionaries({}, optional=dict.fromkeys(SpanRecord._fields, JSON)))
def test_whatever_is_in_a_record_is_bounded_and_printable(known: dict[str, Any]) -> None:
    row = [known.get(name) for name in SpanRecord._fields[3:]]
    for text in (json.dumps(row), json.dumps([row[0], "SUCCESS", *row[2:]]), json.dumps(known)):
        found = SpanRecord.from_json("t", str(known.get("task_id")) + " k", text)
        if found is None:
            continue
        for value in found:
            assert not isinstance(value, str) or (value.isprintable() and len(value) <= 500)
            assert not isinstance(value, (int, float)) or 0 <= value <= 1e15


@pytest.mark.parametrize("kept", [FULL, record(), record()._replace(task_id="two words")])
def test_a_record_survives_its_way_through_json(kept: SpanRecord) -> None:
    assert SpanRecord.from_json(kept.trace_id, f"{kept.task_id} {kept.key}", kept.to_json()) == kept
    assert len(record().to_json()) < 100
