"""The tree of a trace: who published whom. For the command line and the Flower page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery_dynprio.tracing.records import SpanRecord, Trace


def trace_object(trace: Trace) -> dict[str, Any]:
    """A trace as plain data: the spans in the order of the tree, ``parent`` being the ``key`` of another or None."""
    spans = [
        {
            **span._asdict(),
            "moves": [move._asdict() for move in span.moves],
            "lineage": [asdict(each) for each in span.lineage],
            "parent": None if parent is None else parent.key,
            "depth": len(lasts),
        }
        for span, parent, lasts in walk(trace.complete())
    ]
    return {"trace_id": trace.trace_id, "dropped": trace.dropped, "spans": spans}


def walk(found: Sequence[SpanRecord]) -> Iterator[tuple[SpanRecord, SpanRecord | None, tuple[bool, ...]]]:
    """Each span with its parent; parents first, the oldest first.

    For itself and each span above it but the root, it is told whether that is its parent's last.
    """
    spans = sorted(found, key=_age)
    parents = _parents(spans)
    children: dict[int | None, list[int]] = {}
    for number, parent in enumerate(parents):
        children.setdefault(parent, []).append(number)
    waiting: list[tuple[int, tuple[bool, ...]]] = [(number, ()) for number in reversed(children.get(None, []))]
    while waiting:
        number, lasts = waiting.pop()
        above = parents[number]
        yield spans[number], None if above is None else spans[above], lasts
        below = children.get(number, [])
        waiting += [(each, (*lasts, each == below[-1])) for each in reversed(below)]


def _parents(spans: Sequence[SpanRecord]) -> list[int | None]:
    """Which of the spans published each: by span id, else by task id; a chain that leads back to itself is cut.

    Told by their numbers, because a forged span may have the ids of another.
    """
    by_span = {span.span_id: number for number, span in enumerate(spans) if span.span_id}
    by_task = {span.task_id: number for number, span in enumerate(spans)}
    parents: list[int | None] = [None] * len(spans)
    for number, span in enumerate(spans):
        found = by_span.get(span.parent_span_id)
        found = by_task.get(span.parent_task_id) if found is None else found
        above = found
        while above is not None and above != number:
            above = parents[above]
        parents[number] = None if above == number else found
    return parents


def _age(span: SpanRecord) -> tuple[float, float, int]:
    moment = span.published if span.published is not None else span.started
    return (float("inf") if moment is None else moment), span.started or 0.0, span.attempt
