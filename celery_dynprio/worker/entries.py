"""What a process knows of tasks, as it waits to be sent, and the records that the trace store keeps of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

from celery_dynprio import message
from celery_dynprio.tracing.records import FAILED, MAX_ERROR, RANKS, SUCCESS, LoneRun, SpanRecord
from celery_dynprio.tracing.runs import (
    STARTED,
    Running,
    RunReport,
    level_at_publish,
    level_of,
    published_at,
    span_of_headers,
)
from celery_dynprio.tracing.span import Span
from celery_dynprio.untrusted import clean, number


class PublishedTask(NamedTuple):
    """A task that a task of this process published; of it there is the message only, which is read when it is sent."""

    headers: Mapping[str, Any]
    queue: str


class EndReport(NamedTuple):
    """What the worker's parent process knows of the end of a run, or of a message that is not run at all."""

    state: str
    span: Span
    headers: Mapping[str, Any]
    #: Seconds; None if it did not run.
    ran: float | None
    #: Type and text of the exception in one line.
    error: str


#: What waits to be sent, and what is sent: of a run, its report at that moment.
Entry: TypeAlias = Running | PublishedTask | EndReport
Report: TypeAlias = RunReport | PublishedTask | EndReport


def lone_run(report: Report) -> LoneRun | None:
    """Return what there is to know of a run that needs no record; None for all others.

    It says the same as :func:`record_of`, but sooner, as most runs are such.
    """
    if not isinstance(report, RunReport) or report.state != SUCCESS or not report.first:
        return None
    run = report.run
    ids = run.lone_ids
    if ids is None:
        return None
    fields, delivery = run.fields, run.delivery_info if isinstance(run.delivery_info, dict) else {}
    moves = message.moves_of(fields) if message.MOVES in fields else ()
    level = level_of(moves, delivery.get("priority"), run.scale())
    return LoneRun(
        *ids,
        clean(run.id),
        clean(run.task.name),
        clean(delivery.get("routing_key")),
        clean(run.host),
        number(fields.get("at")),
        run.started,
        published_at(moves, level),
        level,
        report.ran,
        tuple(moves),
    )


def record_of(report: Report) -> SpanRecord:
    """Return what the trace store keeps of it."""
    if isinstance(report, RunReport):
        run = report.run
        ran = None if report.state == STARTED else report.ran
        return _record(report.state, run.span(), run.headers, key=run.key, ran=ran, error=report.error)
    if isinstance(report, PublishedTask):
        return _record("PENDING", span_of_headers(report.headers, {"routing_key": report.queue}), report.headers)
    return _record(report.state, report.span, report.headers, ran=report.ran, error=report.error)


def _record(
    state: str,
    span: Span,
    headers: Mapping[str, Any],
    *,
    key: str | None = None,
    ran: float | None = None,
    error: str = "",
) -> SpanRecord:
    """Return the record of a span; ``key`` is the span id in the message, None if that is the span's own."""
    fields, lineage = headers.get(message.HEADER), span.lineage
    return SpanRecord(
        trace_id=span.trace_id,
        key=span.span_id if key is None else key,
        task_id=span.task_id,
        task_name=span.task_name,
        state=state,
        span_id=span.span_id,
        parent_span_id=span.parent_span_id,
        parent_task_id=lineage[-1].id if lineage else "",
        queue=span.queue,
        host=span.host,
        attempt=span.attempt,
        published=number(fields.get("at")) if isinstance(fields, dict) else None,
        started=span.started,
        level_at_publish=level_at_publish(headers, span.level),
        level=span.level,
        wait=span.wait,
        ran=ran,
        error=error[:MAX_ERROR],
        moves=tuple(message.moves_of(fields)),
        lineage=lineage if RANKS.get(state, FAILED) == FAILED else (),
    )


def coalesced(records: Iterable[SpanRecord]) -> Iterable[SpanRecord]:
    """Return the last record of each run: what a store would keep of them."""
    latest: dict[tuple[str, str, str], SpanRecord] = {}
    for record in records:
        run = record.trace_id, record.task_id, record.key
        before = latest.get(run)
        if before is None or before.rank <= record.rank:
            latest[run] = record
    return latest.values()
