"""Tells the trace store what becomes of the tasks of this process; see :mod:`celery_dynprio.spans`.

On a task's path only what is at hand is put aside: records are made of it in the sender's thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from celery import signals
from celery._state import get_current_worker_task

from celery_dynprio import message, tracing
from celery_dynprio.backlogs.redis_client import RedisClient
from celery_dynprio.propagation import SPAN, level_at_publish, span_of_headers
from celery_dynprio.sender import Senders, Store
from celery_dynprio.spans import FAILED, MAX_ERROR, RANKS, RedisSpans, SpanRecord
from celery_dynprio.tracing import LINEAGE, TRACEPARENT, Span

if TYPE_CHECKING:
    from celery import Celery

    from celery_dynprio.settings import Settings

#: The attribute of a Celery app that holds its recorder.
_RECORDER: Final = "_dynprio_recorder"

#: What of a message a record is made of, besides its span.
_HEADERS: Final = (TRACEPARENT, LINEAGE, message.HEADER)

#: The attribute of a request that holds these.
_KEPT: Final = "_dynprio_headers"


class Event(NamedTuple):
    """Something that happened to a run of a task."""

    state: str
    #: None if only the message is known.
    span: Span | None
    headers: Mapping[str, Any]
    #: Where the message of a task that was published went.
    queue: str = ""
    #: Seconds.
    ran: float | None = None
    error: str = ""

    @property
    def rank(self) -> int:
        """As in the store."""
        return RANKS.get(self.state, FAILED)

    def record(self) -> SpanRecord:
        """What the store keeps of it."""
        span = self.span or span_of_headers(self.headers, {"routing_key": self.queue})
        known, fields = tracing.read(self.headers.get(TRACEPARENT)), self.headers.get(message.HEADER)
        return SpanRecord(
            span.trace_id,
            known.span_id if known else span.span_id,
            span.task_id,
            span.task_name,
            self.state,
            span.span_id,
            span.parent_span_id,
            span.lineage[-1].id if span.lineage else "",
            span.queue,
            span.host,
            span.attempt,
            message.number(fields.get("at")) if isinstance(fields, dict) else None,
            span.started,
            level_at_publish(self.headers, span.level),
            span.level,
            span.wait,
            self.ran,
            self.error,
            tuple(message.moves_of(fields)),
            span.lineage if self.rank == FAILED else (),
        )


def coalesced(events: Iterable[Event]) -> Iterable[Event]:
    """The last of the events of each run: what a store would keep of them."""
    latest: dict[str, Event] = {}
    for event in events:
        run = event.headers.get(TRACEPARENT)
        if not isinstance(run, str):
            run = event.record().key
        if run not in latest or latest[run].rank <= event.rank:
            latest[run] = event
    return latest.values()


class _Events:
    """A store of spans that takes events."""

    def __init__(self, spans: RedisSpans) -> None:
        self._spans = spans

    def add(self, events: Sequence[Event], /) -> None:
        self._spans.add([event.record() for event in coalesced(events)])

    def close(self) -> None:
        self._spans.close()


class Recorder:
    """Records the runs of one app's tasks in this process, in any pool, forked or not; eager ones are left out.

    ``settings`` is called when the first task runs: an app may be configured after it was made.
    """

    def __init__(self, app: Celery, settings: Callable[[], Settings]) -> None:
        self._app = app
        self._settings = settings
        self._on: bool | None = None
        self.senders: Senders[Event] = Senders("trace spans", self._open)

    @staticmethod
    def of(app: Celery) -> Recorder | None:
        """The recorder of this app, None if it has none."""
        found: Recorder | None = getattr(app, _RECORDER, None)
        return found

    def started(self, task: Any, **_: Any) -> None:
        """Receive ``task_prerun``, after the span was made."""
        request = vars(task.request)
        if task.app is not self._app or not self._wanted() or request.get("is_eager"):
            return
        span = request.get(SPAN)
        if isinstance(span, Span):
            headers = request[_KEPT] = {name: request.get(name) for name in _HEADERS}
            self.senders.put(Event("STARTED", span, headers))

    def ended(self, task: Any, state: Any = None, retval: Any = None, **_: Any) -> None:
        """Receive ``task_postrun``; a process that was ended from outside sends none."""
        request = vars(task.request)
        headers = request.pop(_KEPT, None)
        if not (self._on and isinstance(headers, dict) and isinstance(state, str)):
            return
        span = request[SPAN]
        error = tracing.said(retval) if isinstance(retval, BaseException) and state != "SUCCESS" else ""
        self.senders.put(Event(state, span, headers, ran=max(time.time() - span.started, 0.0), error=error[:MAX_ERROR]))

    def published(self, headers: Any = None, routing_key: Any = None, **_: Any) -> None:
        """Receive ``after_task_publish``: what a task publishes belongs to its trace before any worker has it."""
        task = get_current_worker_task()
        if task is not None and task.app is self._app and isinstance(headers, dict) and LINEAGE in headers:
            self.senders.put(Event("PENDING", None, headers, queue=str(routing_key or "")))

    def told(self, state: str, span: Span, headers: Mapping[str, Any], exc: BaseException) -> None:
        """Record what the worker's parent process knows of a run, or of a message that is not run at all."""
        if self._wanted():
            kept = {name: headers.get(name) for name in _HEADERS}
            ran = None if span.started is None else max(time.time() - span.started, 0.0)
            self.senders.put(Event(state, span, kept, ran=ran, error=tracing.said(exc)[:MAX_ERROR]))

    def _wanted(self) -> bool:
        if self._on is None:
            self._on = self._settings().trace
            if self._on:
                # Only where tasks run: publishers elsewhere have nothing to tell.
                signals.after_task_publish.connect(self.published, weak=False, dispatch_uid=_uid(self._app))
        return self._on

    def _open(self) -> Store[Event]:
        settings = self._settings()
        bounds = settings.trace_ttl, settings.trace_max_spans, settings.trace_total_spans
        return _Events(RedisSpans(RedisClient.from_app(self._app), *bounds))


def connect(app: Celery, settings: Callable[[], Settings]) -> None:
    """Record the tasks of this app from now on; a second call changes nothing.

    To be called after :func:`celery_dynprio.propagation.connect`, whose spans are recorded.
    """
    if Recorder.of(app) is not None:
        return
    recorder = Recorder(app, settings)
    setattr(app, _RECORDER, recorder)
    for signal, receiver in (
        (signals.task_prerun, recorder.started),
        (signals.task_postrun, recorder.ended),
        (signals.worker_process_shutdown, recorder.senders.stop),
        (signals.worker_shutdown, recorder.senders.stop),
    ):
        signal.connect(receiver, weak=False, dispatch_uid=_uid(app))


def disconnect(app: Celery) -> None:
    """Record no more; what waits is still sent by the threads that have it."""
    for signal in (
        signals.task_prerun,
        signals.task_postrun,
        signals.after_task_publish,
        signals.worker_process_shutdown,
        signals.worker_shutdown,
    ):
        signal.disconnect(dispatch_uid=_uid(app))
    vars(app).pop(_RECORDER, None)


def _uid(app: Celery) -> str:
    return f"dynprio-recorder-{id(app)}"
