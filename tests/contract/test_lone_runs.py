"""Runs that are alone in their traces: every trace store gives what it was told, Redis keeps them within bounds."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis

from celery_dynprio.models import Moved
from celery_dynprio.ports.spans import Spans
from celery_dynprio.tracing.records import LoneRun, SpanRecord, lone_from_json, lone_to_json
from tests.contract.spans import every_store, redis_spans  # noqa: F401 - a fixture
from tests.processes import wait_until
from tests.servers import Database

KEY = "dynprio:lone_runs"

MOVES = (Moved(1000.5, 3, 0, 0.75, "score"),)


def lone(n: int, **known: Any) -> LoneRun:
    """The run that is alone in the nth trace."""
    ids = (f"{n:032x}", f"{n:016x}", f"task-{n}")
    return LoneRun(*ids, "a.work", "celery", "w@h", 1000.0, 1001.5, 5, 3, 0.25, MOVES)._replace(**known)


def read(store: Spans, wanted: str) -> list[SpanRecord]:
    found = store.read(wanted)
    return [] if found is None else list(found.spans)


def kept(client: redis.Redis) -> list[str]:
    """The tasks whose runs are there, the oldest first."""
    entries: Any = client.xrange(KEY)
    return [record.task_id for _, fields in entries for record in lone_from_json(fields[b"runs"])]


def test_what_is_added_is_read_by_trace_and_by_task(store: Spans) -> None:
    store.add([], [lone(n) for n in range(250)])
    store.add([], [lone(250, moves=())])
    for n in (0, 99, 100, 249):
        expected = [lone(n).record()]
        assert read(store, f"{n:032x}") == read(store, f"task-{n}") == expected
    assert read(store, "task-250") == [lone(250, moves=()).record()]
    assert (store.taken, store.dropped) == (251, 0)


@pytest.mark.parametrize("wanted", ["", "task", "task-", "*", "a.work", "celery", "[", "\ud800", "x" * 10**5])
def test_what_is_not_there_is_not_found(store: Spans, wanted: str) -> None:
    store.add([], [lone(1)])
    assert store.read(wanted) is None


@pytest.mark.parametrize("task_id", ['a"b', "back\\slash", "two words", "\u00e9t\u00e9"])
def test_any_task_id_is_found(store: Spans, task_id: str) -> None:
    store.add([], [lone(1), lone(2, task_id=task_id)])
    assert read(store, task_id) == [lone(2, task_id=task_id).record()]
    assert store.ids_with(task_id[:2]) == {task_id}


def test_ids_of_traces_and_tasks_are_completed(store: Spans) -> None:
    store.add([lone(10).record()], [lone(1), lone(2)])
    assert store.ids_with("task-1") == {"task-1", "task-10"}
    assert store.ids_with("0" * 31) == {f"{n:032x}" for n in (1, 2, 10)}


def test_a_run_whose_message_came_twice_is_shown_once_at_its_worst(store: Spans) -> None:
    failed = lone(1).record()._replace(state="FAILURE", error="ValueError: no")
    store.add([lone(2).record()._replace(state="STARTED")], [lone(1), lone(2), lone(2, host="second@h")])
    store.add([failed])
    assert read(store, "task-1") == [failed]
    assert read(store, "task-2") == [lone(2, host="second@h").record()]


def test_tasks_that_turn_out_to_be_in_the_same_trace_are_shown_with_it(store: Spans) -> None:
    child = lone(1).record()._replace(key="c" * 16, task_id="child", parent_task_id="task-1", state="FAILURE")
    store.add([child], [lone(1)])
    for wanted in ("child", "task-1", child.trace_id):
        assert {span.task_id for span in read(store, wanted)} == {"child", "task-1"}


def test_the_newest_trace_that_has_a_task_is_found(valkey: Database) -> None:
    spans = redis_spans(valkey.url)
    again: list[Any] = [{"lone": [lone(n, task_id="again")]} for n in range(2)]
    again.insert(1, {"records": [lone(7, task_id="again").record()]})
    for each in again:
        spans.add(each.get("records", []), each.get("lone", []))
        (found,) = read(spans, "again")
        assert found.trace_id == (each.get("records") or each["lone"])[0].trace_id
    spans.close()


@pytest.mark.parametrize("together", [1, 7, 100, 1000])
def test_the_oldest_are_dropped(server: Database, together: int) -> None:
    spans = redis_spans(server.url, total=150)
    for first in range(0, 1000, together):
        spans.add([], [lone(n) for n in range(first, first + together)])
        assert len(kept(server.client)) <= 150
    found = kept(server.client)
    assert found == [f"task-{n}" for n in range(first + together - len(found), first + together)]
    assert len(found) > 150 - min(together, 100)
    spans.close()


def test_a_search_of_many_small_entries_takes_few_round_trips(server: Database) -> None:
    spans = redis_spans(server.url)
    for n in range(400):  # as a worker leaves them that runs less than a task a second
        spans.add([], [lone(n)])
    server.client.config_resetstat()
    assert spans.read("unknown") is None
    assert server.client.info("commandstats")["cmdstat_xrevrange"]["calls"] <= 6
    (found,) = read(spans, "task-0")
    assert found.trace_id == lone(0).trace_id
    spans.close()


def test_their_time_is_over_by_itself(server: Database) -> None:
    old, young = redis_spans(server.url, ttl=0.05), redis_spans(server.url, ttl=1000)
    old.add([], [lone(1)])
    young.add([], [lone(2)])
    wait_until(lambda: young.read("task-1") is None)
    old.add([], [lone(3)])
    assert kept(server.client) == ["task-2", "task-3"]
    assert server.client.pttl(KEY) > 900_000
    server.client.delete(KEY)
    old.add([], [lone(4)])
    wait_until(lambda: not server.client.exists(KEY))
    old.close()
    young.close()


def test_a_trace_that_somebody_forged_is_shown_within_its_bound(valkey: Database) -> None:
    spans = redis_spans(valkey.url, spans=5)
    spans.add([], [lone(n, trace_id="f" * 32) for n in range(20)])
    assert {span.task_id for span in read(spans, "f" * 32)} == {f"task-{n}" for n in range(15, 20)}
    spans.close()


def test_only_a_prefixed_key_is_touched(valkey: Database) -> None:
    spans = redis_spans(valkey.url, prefix="shop:")
    spans.add([], [lone(1)])
    assert valkey.client.keys() == [f"shop:{KEY}".encode()]
    spans.close()


def test_what_somebody_else_wrote_is_passed_over_and_dropped_in_time(server: Database) -> None:
    spans = redis_spans(server.url, total=3)
    odd: list[Any] = [
        {"x": "y"},
        {"runs": lone_to_json([lone(1)]), "until": "many", "count": "1", "total": "inf"},
        {"runs": b"\xff task-1", "until": "1e12", "count": "nan", "total": "1e300"},
        {"runs": "[" * 10_000 + "task-1", "until": "1e12", "count": "-5", "total": "-7"},
    ]
    for fields in odd:
        server.client.xadd(KEY, fields)
        assert spans.read("task-1") is None
        spans.add([], [lone(2)])
        assert read(spans, "task-2") == [lone(2).record()]
    for n in range(10):
        spans.add([], [lone(n)])
    assert kept(server.client) == ["task-7", "task-8", "task-9"]
    spans.close()


def test_a_key_of_another_type_is_told(valkey: Database) -> None:
    spans = redis_spans(valkey.url)
    valkey.client.set(KEY, "no stream")
    with pytest.raises(redis.ResponseError):
        spans.add([lone(2).record()], [lone(1)])
    assert spans.taken == 1
    spans.close()


def test_they_stay_readable() -> None:
    """What this version writes, to the letter: later ones have to read it."""
    row = ["t", "k", "1", "a.work", "celery", "w@h", 1000.0, 1001.5, 5, 3, 0.25, [[1000.5, 3, 0, 0.75, "score"]]]
    assert json.loads(lone_to_json([lone(1, trace_id="t", key="k", task_id="1")])) == [row]
    for known in (row, row[:11], [*row, "of later versions"]):
        assert [record.task_id for record in lone_from_json(json.dumps([known]))] == ["1"]
