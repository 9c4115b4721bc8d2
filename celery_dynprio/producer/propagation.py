"""Carries the trace from the code that publishes a task into the process that runs it, whatever the pool.

``traceparent`` in a message names the span of the task itself. The publisher makes the id, so the worker's parent
process and its pool process agree on it without exchanging anything. The tasks that led there are in
``dynprio_lineage``: ``[level at publish, [[name, id, host, level, wait, ran], ...], parent span id]``, the root first.
A task that no other led to has no such header.

OpenTelemetry's Celery instrumentation writes a ``traceparent`` of its own, which is kept. If it was instrumented before
:func:`connect`, a task's span is the one that it made, otherwise a parent of it. In both cases there is one trace.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from celery import signals

from celery_dynprio.errors import DynPrioError
from celery_dynprio.levels import Scale, steps_in
from celery_dynprio.message import clean
from celery_dynprio.protocol1 import is_protocol_1
from celery_dynprio.tracing import context as tracing
from celery_dynprio.tracing.context import LINEAGE, TRACEPARENT, TRACESTATE, Span
from celery_dynprio.tracing.runs import Running, retries_of

if TYPE_CHECKING:
    from celery import Celery

    from celery_dynprio.settings import Settings

#: The attribute of a Celery app that holds its :class:`Propagation`.
_PROPAGATION: Final = "_dynprio_propagation"

#: Makes an OpenTelemetry span for each run, before us or after us, from what it finds in the request.
_INSTRUMENTATION: Final = "opentelemetry.instrumentation.celery"

#: The headers that this thread wrote last, which tell whether another app has written them already.
_last = threading.local()


class Propagation:
    """Writes the trace into messages that this process publishes, and sets it while an app's tasks run, in any pool.

    ``settings`` is called when it is first needed, because an app may be configured after it was made. ``complete`` is
    called with each message first, and may change its priority.
    """

    def __init__(
        self, app: Celery, settings: Callable[[], Settings], complete: Callable[..., None] = lambda **_: None
    ) -> None:
        self._app = app
        self._settings = settings
        self._complete = complete
        #: Called with each run that is not eager when it starts, and with those that are ``known`` when they end.
        self.follower: Callable[[Running], None] | None = None
        self._known: tuple[Scale | None] | None = None

    @staticmethod
    def of(app: Celery) -> Propagation | None:
        """Return the propagation of this app, None if it has none."""
        found: Propagation | None = vars(app).get(_PROPAGATION)
        return found

    def publishing(self, headers: Any = None, properties: Any = None, body: Any = None, **_: Any) -> None:
        """Receive ``before_task_publish``. There is one receiver for everything, since each costs a microsecond."""
        self._complete(headers=headers, properties=properties, body=body)
        # The signal does not name the app: with two apps in a process, the first one does it.
        if headers is not getattr(_last, "headers", None):
            _last.headers = headers
            self._write(headers, properties, body if is_protocol_1(headers) and isinstance(body, Mapping) else headers)

    def started(self, task: Any, **_: Any) -> None:
        """Receive ``task_prerun``: make the run's span the current one."""
        if task.app is not self._app:
            return
        request = task.request
        fields, outer, eager = vars(request), None, request.is_eager
        # That OpenTelemetry is imported does not mean that it is used: redis-py imports it where it is installed.
        active = tracing.opentelemetry_span()
        if eager:
            fields, outer, around = self._eager_fields(request), tracing.spanned(), tracing.current()
            if active is not None and around is not None and active.span_id == around.span_id:
                active = None  # the span around this task, not its own
        run = Running(task, request, fields, self.scale, outer)
        if active is not None or _INSTRUMENTATION in sys.modules:
            run.change(_as_opentelemetry(run.span(), request, active))
        tracing._current.set(run)  # noqa: SLF001 - its other half
        if self.follower is not None and not eager:
            self.follower(run)

    def ended(self, task: Any, task_id: object = None, state: object = None, retval: object = None, **_: Any) -> None:
        """Receive ``task_postrun``: leave the run's span. A run that ends with its process sends no such signal."""
        if task.app is not self._app:
            return
        run = tracing.spanned()
        if type(run) is not Running or run.task is not task or run.id != task_id:
            # A pool may end a task in another context; it takes longer to find the run by its request.
            run = Running.of(task.request)
            if run is None:
                return
        # Only an eager task has code around it; by value, for the same reason.
        tracing._current.set(run.outer)  # noqa: SLF001 - as above
        if self.follower is not None:
            run.end(state, "" if state == "SUCCESS" or not isinstance(retval, BaseException) else tracing.said(retval))
            if run.known:
                self.follower(run)

    def retrying(self, request: Any, reason: Any = None, **_: Any) -> None:
        """Receive ``task_retry``: an eager retry is not a message, and runs after this run has ended."""
        signature = getattr(reason, "sig", None)
        if not request.is_eager or signature is None or Running.of(request) is None:
            return
        headers = {"id": request.id, "retries": request.retries + 1}
        self._write(headers, {})
        trace = {name: headers[name] for name in (TRACEPARENT, TRACESTATE, LINEAGE) if name in headers}
        signature.options["headers"] = {**(request.headers or {}), **trace}

    def _eager_fields(self, request: Any) -> dict[str, Any]:
        """Return the headers that the message of an eager task would have had."""
        handed = request.headers if isinstance(request.headers, dict) else {}
        fields = {**vars(request), **handed, "id": request.id, "retries": request.retries}
        if not (request.retries and LINEAGE in handed):
            self._write(fields, request.delivery_info)
        return fields

    def _write(self, headers: dict[str, Any], properties: Any, about: Mapping[str, Any] | None = None) -> None:
        """Write the trace; ``about`` has the task's id and retries (None: the headers have them)."""
        span, active = tracing.current(), tracing.opentelemetry_span()
        if span is None and active is None and TRACEPARENT not in headers:  # the usual case outside of tasks
            headers[TRACEPARENT] = tracing.new_root()
            for name in (TRACESTATE, LINEAGE):
                headers.pop(name, None)
            return
        if active is not None and span is not None and active.span_id == span.span_id:
            active = None  # the span itself
        # OpenTelemetry's instrumentation will continue its own trace, so do we.
        base = active or span or tracing.read(headers.get(TRACEPARENT), headers.get(TRACESTATE))
        # A header that web code has injected by hand would give all tasks of its request the same span id.
        if (
            active is None
            or headers.get(TRACEPARENT) != active.traceparent
            or tracing.opentelemetry_kind() != "PRODUCER"
        ):
            _write_ids(headers, base)
        if base is None:
            headers.pop(LINEAGE, None)  # a caller may pass on the headers of another message
            return
        parent = (span or base).span_id
        ancestors = () if span is None else span.lineage
        if span is not None and span.task_id:
            about = headers if about is None else about
            if clean(about.get("id")) == span.task_id and retries_of(about) >= span.attempt:
                parent = span.parent_span_id  # a retry is not a child of the run before it
            else:
                ancestors = (*ancestors, tracing.itself(span))
        scale = self.scale()
        level = None if scale is None else scale.level_of(properties.get("priority") or 0)
        headers[LINEAGE] = [level, [each.row() for each in tracing.bounded(ancestors)], parent]

    def scale(self) -> Scale | None:
        """Return how the app's broker numbers the levels, None if it has none."""
        if self._known is None:
            self._known = (scale_of(self._app, self._settings),)
        return self._known[0]


def scale_of(app: Celery, settings: Callable[[], Settings]) -> Scale | None:
    """Return how this app's broker numbers the levels, None if it has none."""
    from celery_dynprio.brokers.redis.client import REDIS_TRANSPORTS  # noqa: PLC0415 - redis is slow to import

    if app.connection_for_write().get_transport_cls().driver_type not in REDIS_TRANSPORTS:
        return None
    try:
        settings()  # reading them sets and checks the steps
        return Scale.of(steps_in(app.conf))
    except DynPrioError:  # reported where the settings are used
        return None


def connect(app: Celery, settings: Callable[[], Settings], complete: Callable[..., None] = lambda **_: None) -> None:
    """Carry traces through this app's tasks from now on; a second call changes nothing.

    See :class:`Propagation` for ``complete``.
    """
    if Propagation.of(app) is not None:
        return
    propagation = Propagation(app, settings, complete)
    setattr(app, _PROPAGATION, propagation)
    for signal, receiver in (
        (signals.before_task_publish, propagation.publishing),
        (signals.task_retry, propagation.retrying),
        (signals.task_prerun, propagation.started),
        (signals.task_postrun, propagation.ended),
    ):
        signal.connect(receiver, weak=False, dispatch_uid=_uid(app))


def disconnect(app: Celery) -> None:
    """Stop carrying traces; a second call changes nothing."""
    for signal in (signals.before_task_publish, signals.task_retry, signals.task_prerun, signals.task_postrun):
        signal.disconnect(dispatch_uid=_uid(app))
    vars(app).pop(_PROPAGATION, None)


def _uid(app: Celery) -> str:
    return f"dynprio-propagation-{id(app)}"


def _write_ids(headers: dict[str, Any], base: Span | None) -> None:
    """Name the span of the task that is published, in the trace of ``base`` or in a new one."""
    trace_id, span_id = tracing.new_ids()
    if base is not None:
        trace_id = base.trace_id
    headers[TRACEPARENT] = f"00-{trace_id}-{span_id}-{1 if base is None else base.flags:02x}"
    if base is not None and base.tracestate:
        headers[TRACESTATE] = base.tracestate
    else:
        headers.pop(TRACESTATE, None)  # a retry brings the headers of the run before it


def _as_opentelemetry(span: Span, request: Any, active: Span | None) -> Span:
    """Use the ids of the span that OpenTelemetry has made for this run, or let it use ours."""
    if active is not None and (not request.is_eager or tracing.opentelemetry_kind() == "CONSUMER"):
        ids = span._replace(trace_id=active.trace_id, span_id=active.span_id)
        return ids._replace(flags=active.flags, tracestate=active.tracestate)
    # Its instrumentation reads the header from the request.
    request.traceparent = span.traceparent
    return span
