"""How a trace is drawn, also one that somebody forged."""

from __future__ import annotations

import json
from typing import Any

from celery_dynprio.cli.trace import MAX_INDENT, trace_lines
from celery_dynprio.models import Moved
from celery_dynprio.tracing import Ancestor
from celery_dynprio.tracing.records import SpanRecord, Trace
from celery_dynprio.tracing.tree import trace_object


def span(name: str, parent: str = "", state: str = "SUCCESS", **known: Any) -> SpanRecord:
    """A run of the task of this name, which is its id and its span too."""
    return SpanRecord("t", name, f"id-{name}", name, state, name, parent, **known)


def drawn(*spans: SpanRecord, dropped: int = 0) -> list[str]:
    return list(trace_lines(Trace("t", spans, dropped), lambda text, **_: text))


def test_a_tree_is_drawn_from_the_root_on() -> None:
    lines = drawn(
        span("d", "c", "FAILURE", host="two@x", published=4.0, error="ValueError: no"),
        span("e", "a", "PENDING", published=5.0),
        span("a", "web", host="one@x", queue="celery", published=1.0, level_at_publish=4, level=4, wait=0.5, ran=0.25),
        span("c", "b", host="one@x", published=3.0, level_at_publish=4, level=1),
        span("b", "a", host="two@x", published=2.0),
    )
    assert lines == [
        "trace t: 5 runs on 2 workers, 1 FAILURE, 1 PENDING, 3 SUCCESS",
        "SUCCESS  a[id-a] on one@x, queue celery, P4, waited 0.500 s, ran 0.250 s",
        "SUCCESS  ├─ b[id-b] on two@x",
        "SUCCESS  │  └─ c[id-c] on one@x, P4 -> P1",
        "FAILURE  │     └─ d[id-d] on two@x",
        "         │           ValueError: no",
        "PENDING  └─ e[id-e]",
    ]


def test_moves_are_told_with_their_reasons() -> None:
    moves = (Moved(10.0, 6, 2, 0.81, "score"), Moved(12.5, -1, 0, 0.9, "refill"))
    assert drawn(span("a", published=9.0, attempt=3, moves=moves))[1:] == [
        "SUCCESS  a[id-a] attempt 3",
        "            after 1.000 s from P6 to P2: score, 0.810",
        "            after 3.500 s from parked to P0: refill, 0.900",
    ]
    assert drawn(span("a", moves=moves[:1]))[2] == "            from P6 to P2: score, 0.810"


def test_what_found_no_room_is_told() -> None:
    assert drawn(span("a"), dropped=1)[-1] == "1 record more had no room: see dynprio_trace_max_spans"


def test_a_parent_that_is_known_by_its_task_only_is_found() -> None:
    lines = drawn(span("a"), span("b", "another", parent_task_id="id-a"))
    assert [line[9:] for line in lines[1:]] == ["a[id-a]", "└─ b[id-b]"]


def test_ancestors_of_what_failed_are_shown_even_if_nothing_else_is_kept_of_them() -> None:
    lineage = (Ancestor("a", "id-a", "one@x", 3, 0.5, 0.25), Ancestor("b", "id-b"), Ancestor("c", "id-c"))
    failed = span("d", "lost", "FAILURE", parent_task_id="id-c", lineage=lineage, published=2.0)
    assert drawn(failed, span("b", published=1.0)) == [
        "trace t: 4 runs on 1 worker, 1 FAILURE, 1 SUCCESS, 2 UNKNOWN",
        "SUCCESS  b[id-b]",
        "UNKNOWN  └─ c[id-c]",
        "FAILURE     └─ d[id-d]",
        "UNKNOWN  a[id-a] on one@x, P3, waited 0.500 s, ran 0.250 s",
    ]
    assert [each["state"] for each in trace_object(Trace("t", (failed,)))["spans"]] == ["UNKNOWN"] * 3 + ["FAILURE"]


def test_those_whose_parent_is_missing_are_roots() -> None:
    assert len([line for line in drawn(span("a", "x"), span("b", "y")) if "─" in line]) == 0


def test_a_circle_is_cut_and_all_are_shown() -> None:
    lines = drawn(span("a", "c"), span("b", "a"), span("c", "b"), span("d", "d"), span("e", "c"))
    assert len(lines) == 6
    lines = drawn(*(span("a", "", parent_task_id="id-a", attempt=n) for n in (1, 2)))
    assert sum("a[id-a]" in line for line in lines) == 2


def test_spans_that_share_all_ids_end_and_are_shown() -> None:
    ids = [("c", "k"), ("k", "c"), ("f", "c"), ("e", "k")]
    spans = [
        SpanRecord("t", "k", name, name, "SUCCESS", name, parent, published=float(n))
        for n, (name, parent) in enumerate(ids)
    ]
    assert sorted(line[9:].strip(" └├─│") for line in drawn(*spans)[1:]) == ["c[c]", "e[e]", "f[f]", "k[k]"]


def test_a_long_chain_stays_readable() -> None:
    chain = [span(str(n), str(n - 1), published=float(n)) for n in range(1000)]
    lines = drawn(*reversed(chain))
    assert len(lines) == 1001
    assert max(map(len, lines)) < 3 * MAX_INDENT + 50
    assert [each["depth"] for each in trace_object(Trace("t", chain))["spans"]] == list(range(1000))


def test_json_names_the_parents() -> None:
    found = trace_object(Trace("t", (span("b", "a", moves=(Moved(1.0, 2, 3, 0.5, "score"),)), span("a")), 3))
    again = json.loads(json.dumps(found))
    assert (again["trace_id"], again["dropped"]) == ("t", 3)
    assert [(each["key"], each["parent"], each["depth"]) for each in again["spans"]] == [("a", None, 0), ("b", "a", 1)]
    move = {"at": 1.0, "source": 2, "target": 3, "score": 0.5, "reason": "score"}
    assert again["spans"][1]["moves"] == [move]
