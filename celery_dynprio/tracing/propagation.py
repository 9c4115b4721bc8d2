"""Carries the trace from the code that publishes a task into the process that runs it, whatever the pool.

``traceparent`` in a message names the span of the task itself. The publisher makes the id, so the worker's parent
process and its pool process agree on it without exchanging anything. The tasks that led there are in
``dynprio_lineage``: ``[level at publish, [[name, id, host, level, wait, ran], ...], parent span id]``, the root first.
A task that no other led to has no such header.

OpenTelemetry's Celery instrumentation writes a ``traceparent`` of its own, which is kept. If it was instrumented
before the add-on was installed, a task's span is the one that it made, otherwise a parent of it. In both cases there is
one trace.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from celery import signals

from celery_dynprio.hosting.signals import Connections
from celery_dynprio.levels import Scale
from celery_dynprio.protocol1 import is_protocol_1
from celery_dynprio.tracing import context, opentelemetry
from celery_dynprio.tracing.context import current_or_deferred
from celery_dynprio.tracing.failure_report import exception_line
from celery_dynprio.tracing.ids import new_ids, new_traceparent
from celery_dynprio.tracing.opentelemetry import is_idle
from celery_dynprio.tracing.runs import Running, retries_of
from celery_dynprio.tracing.span import LINEAGE, TRACEPARENT, TRACESTATE, Span, bounded, read
from celery_dynprio.untrusted import clean

if TYPE_CHECKING:
    from celery import Celery

#: Makes an OpenTelemetry span for each run, before us or after us, from what it finds in the request.
_INSTRUMENTATION: Final = "opentelemetry.instrumentation.celery"


class Propagation:
    """Writes the trace into messages that this process publishes, and sets it while an app's tasks run, in any pool.

    ``scale`` returns how the app's broker numbers the levels, None if it has none. It is called when it is first
    needed, because an app may be configured after it was made.
    """

    def __init__(self, app: Celery, scale: Callable[[], Scale | None]) -> None:
        self._app = app
        self._scale = scale
        #: Called with each run that is not eager when it starts, and with those that were ``reported`` when they end.
        self.follower: Callable[[Running], None] | None = None

    def connections(self) -> Connections:
        """Return what follows the runs of this app's tasks while it is connected."""
        return Connections(
            "propagation",
            self._app,
            (signals.task_retry, self.retrying, None),
            (signals.task_prerun, self.started, None),
            (signals.task_postrun, self.ended, None),
        )

    def started(self, task: Any, **_: Any) -> None:
        """Receive ``task_prerun``: make the run's span the current one."""
        if task.app is not self._app:
            return
        request = task.request
        fields, outer, eager = vars(request), None, request.is_eager
        # That OpenTelemetry is imported does not mean that it is used: redis-py imports it where it is installed.
        active = opentelemetry.active_span()
        if eager:
            fields, outer, around = self._eager_fields(request), context.current_or_deferred(), context.current()
            if active is not None and around is not None and active.span_id == around.span_id:
                active = None  # the span around this task, not its own
        run = Running(task, request, fields, self._scale, outer)
        if active is not None or _INSTRUMENTATION in sys.modules:
            run.change(_as_opentelemetry(run.span(), request, active))
        context.enter(run)
        if self.follower is not None and not eager:
            self.follower(run)

    def ended(self, task: Any, task_id: object = None, state: object = None, retval: object = None, **_: Any) -> None:
        """Receive ``task_postrun``: leave the run's span. A run that ends with its process sends no such signal."""
        if task.app is not self._app:
            return
        run = context.current_or_deferred()
        if type(run) is not Running or run.task is not task or run.id != task_id:
            # A pool may end a task in another context; it takes longer to find the run by its request.
            run = Running.of(task.request)
            if run is None:
                return
        # Only an eager task has code around it; by value, for the same reason.
        context.enter(run.outer)
        if self.follower is not None:
            run.end(state, exception_line(retval) if isinstance(retval, BaseException) and state != "SUCCESS" else "")
            if run.reported:
                self.follower(run)

    def retrying(self, request: Any, reason: Any = None, **_: Any) -> None:
        """Receive ``task_retry``: an eager retry is not a message, and runs after this run has ended."""
        signature = getattr(reason, "sig", None)
        if not request.is_eager or signature is None or Running.of(request) is None:
            return
        headers = {"id": request.id, "retries": request.retries + 1}
        self.write(headers, {})
        trace = {name: headers[name] for name in (TRACEPARENT, TRACESTATE, LINEAGE) if name in headers}
        signature.options["headers"] = {**(request.headers or {}), **trace}

    def _eager_fields(self, request: Any) -> dict[str, Any]:
        """Return the headers that the message of an eager task would have had."""
        handed = request.headers if isinstance(request.headers, dict) else {}
        fields = {**vars(request), **handed, "id": request.id, "retries": request.retries}
        if not (request.retries and LINEAGE in handed):
            self.write(fields, request.delivery_info)
        return fields

    def write(self, headers: dict[str, Any], properties: Any, body: Any = None) -> None:
        """Write the trace into a message; the body of one of protocol 1 has the task's id and retries."""
        if TRACEPARENT not in headers and current_or_deferred() is None and is_idle():  # outside of tasks, mostly
            headers[TRACEPARENT] = new_traceparent()
            headers.pop(TRACESTATE, None)
            headers.pop(LINEAGE, None)
            return
        span, active = context.current(), opentelemetry.active_span()
        if active is not None and span is not None and active.span_id == span.span_id:
            active = None  # the span itself
        # OpenTelemetry's instrumentation will continue its own trace, so do we.
        base = active or span or read(headers.get(TRACEPARENT), headers.get(TRACESTATE))
        # A header that web code has injected by hand would give all tasks of its request the same span id.
        if (
            active is None
            or headers.get(TRACEPARENT) != active.traceparent
            or opentelemetry.active_kind() != "PRODUCER"
        ):
            _write_ids(headers, base)
        if base is None:
            headers.pop(LINEAGE, None)  # a caller may pass on the headers of another message
            return
        scale = self._scale()
        level = None if scale is None else scale.level_of(properties.get("priority") or 0)
        about = body if is_protocol_1(headers) and isinstance(body, Mapping) else headers
        headers[LINEAGE] = [level, *_lineage(span, base, about)]


def _lineage(span: Span | None, base: Span, about: Mapping[str, Any]) -> tuple[list[list[Any]], str]:
    """Return the rows of the tasks that led to the one that is published, and the id of its parent span."""
    if span is None:
        return [], base.span_id
    ancestors, parent = span.lineage, span.span_id
    if span.task_id:
        if clean(about.get("id")) == span.task_id and retries_of(about) >= span.attempt:
            parent = span.parent_span_id  # a retry is not a child of the run before it
        else:
            ancestors = (*ancestors, span.as_ancestor(time.time()))
    return [each.row() for each in bounded(ancestors)], parent


def _write_ids(headers: dict[str, Any], base: Span | None) -> None:
    """Name the span of the task that is published, in the trace of ``base`` or in a new one."""
    trace_id, span_id = new_ids()
    if base is not None:
        trace_id = base.trace_id
    headers[TRACEPARENT] = f"00-{trace_id}-{span_id}-{1 if base is None else base.flags:02x}"
    if base is not None and base.tracestate:
        headers[TRACESTATE] = base.tracestate
    else:
        headers.pop(TRACESTATE, None)  # a retry brings the headers of the run before it


def _as_opentelemetry(span: Span, request: Any, active: Span | None) -> Span:
    """Use the ids of the span that OpenTelemetry has made for this run, or let it use ours."""
    if active is not None and (not request.is_eager or opentelemetry.active_kind() == "CONSUMER"):
        ids = span._replace(trace_id=active.trace_id, span_id=active.span_id)
        return ids._replace(flags=active.flags, tracestate=active.tracestate)
    # Its instrumentation reads the header from the request.
    request.traceparent = span.traceparent
    return span
