"""Tells the trace store what becomes of the tasks of this process; see :mod:`celery_dynprio.spans`.

On a task's path only what is at hand is put aside: records are made of it in the sender's thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from celery import signals
from celery._state import get_current_worker_task

from celery_dynprio import message, runs, tracing
from celery_dynprio.backlogs.redis_client import RedisClient
from celery_dynprio.models import Moved
from celery_dynprio.propagation import Running, level_at_publish, span_of_headers
from celery_dynprio.sender import Senders, Store
from celery_dynprio.spans import FAILED, MAX_ERROR, RANKS, RedisSpans, SpanRecord
from celery_dynprio.tracing import LINEAGE, TRACEPARENT, Span

if TYPE_CHECKING:
    from celery import Celery

    from celery_dynprio.settings import Settings

#: The attribute of a Celery app that holds its recorder.
_RECORDER: Final = "_dynprio_recorder"


class Known(NamedTuple):
    """What the message of a run tells besides its span; small, whatever is in the message."""

    #: As in :class:`~celery_dynprio.spans.SpanRecord`.
    key: str
    published: float | None
    level_at_publish: int | None
    moves: tuple[Moved, ...]

    @classmethod
    def of(cls, headers: Mapping[str, Any], span: Span) -> Known:
        """Read the headers of the message that ``span`` was made of."""
        own, fields = tracing.read(headers.get(TRACEPARENT)), headers.get(message.HEADER)
        return cls(
            own.span_id if own else span.span_id,
            message.number(fields.get("at")) if isinstance(fields, dict) else None,
            level_at_publish(headers, span.level),
            tuple(message.moves_of(fields)),
        )


class Event(NamedTuple):
    """Something that happened to a run of a task."""

    state: str
    span: Span
    known: Known
    #: Seconds.
    ran: float | None = None
    error: str = ""

    @property
    def rank(self) -> int:
        """As in the store."""
        return RANKS.get(self.state, FAILED)

    def record(self) -> SpanRecord:
        """What the store keeps of it."""
        span, known = self.span, self.known
        return SpanRecord(
            span.trace_id,
            known.key,
            span.task_id,
            span.task_name,
            self.state,
            span.span_id,
            span.parent_span_id,
            span.lineage[-1].id if span.lineage else "",
            span.queue,
            span.host,
            span.attempt,
            known.published,
            span.started,
            known.level_at_publish,
            span.level,
            span.wait,
            self.ran,
            self.error,
            known.moves,
            span.lineage if self.rank == FAILED else (),
        )


class Told(NamedTuple):
    """What the process that runs a task tells of its run; the run is read when it is sent."""

    state: str
    run: Running
    #: Seconds.
    ran: float | None = None
    error: str = ""

    def event(self) -> Event:
        """The same as an event."""
        span = self.run.span()
        return Event(self.state, span, Known.of(self.run.headers, span), self.ran, self.error)


class Published(NamedTuple):
    """A task of this process published another; of it there is the message only, which is read when it is sent."""

    headers: Mapping[str, Any]
    queue: str

    def event(self) -> Event:
        """The same as an event."""
        span = span_of_headers(self.headers, {"routing_key": self.queue})
        return Event("PENDING", span, Known.of(self.headers, span))


#: What is put aside.
Entry: TypeAlias = Event | Told | Published


def coalesced(entries: Iterable[Entry]) -> Iterable[Event]:
    """The last of the events of each run: what a store would keep of them."""
    # Most runs begin and end between two sends: what began is not even read.
    told = {entry.run if isinstance(entry, Told) else number: entry for number, entry in enumerate(entries)}
    latest: dict[tuple[str, str, str], Event] = {}
    for entry in told.values():
        event = entry if isinstance(entry, Event) else entry.event()
        run = event.span.trace_id, event.span.task_id, event.known.key
        known = latest.get(run)
        if known is None or known.rank <= event.rank:
            latest[run] = event
    return latest.values()


class _Events:
    """A store of spans that takes events."""

    def __init__(self, spans: RedisSpans) -> None:
        self._spans = spans

    def add(self, entries: Sequence[Entry], /) -> None:
        self._spans.add([event.record() for event in coalesced(entries)])

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
        self.senders: Senders[Entry] = Senders("trace spans", self._open)

    @staticmethod
    def of(app: Celery) -> Recorder | None:
        """The recorder of this app, None if it has none."""
        found: Recorder | None = getattr(app, _RECORDER, None)
        return found

    def started(self, task: Any, request: Any) -> None:  # noqa: ARG002 - a follower's
        """Record that a run begins."""
        run = Running.of(request)
        if run is not None and not request.is_eager and self._wanted():
            self.senders.put(Told("STARTED", run))

    def ended(self, task: Any, request: Any, state: object, retval: object) -> None:  # noqa: ARG002 - as above
        """Record how a run ended."""
        run = Running.of(request)
        if run is None or not self._on or request.is_eager or not isinstance(state, str):
            return
        error = tracing.said(retval)[:MAX_ERROR] if isinstance(retval, BaseException) and state != "SUCCESS" else ""
        self.senders.put(Told(state, run, max(time.time() - run.started, 0.0), error))

    def published(self, headers: Any = None, routing_key: Any = None, **_: Any) -> None:
        """Receive ``after_task_publish``: what a task publishes belongs to its trace before any worker has it."""
        task = get_current_worker_task()
        if task is not None and task.app is self._app and isinstance(headers, dict) and LINEAGE in headers:
            self.senders.put(Published(headers, str(routing_key or "")))

    def told(self, state: str, span: Span, headers: Mapping[str, Any], exc: BaseException) -> None:
        """Record what the worker's parent process knows of a run, or of a message that is not run at all."""
        if self._wanted():
            ran = None if span.started is None else max(time.time() - span.started, 0.0)
            self.senders.put(Event(state, span, Known.of(headers, span), ran, tracing.said(exc)[:MAX_ERROR]))

    def _wanted(self) -> bool:
        if self._on is None:
            self._on = self._settings().trace
            if self._on:
                # Only where tasks run: publishers elsewhere have nothing to tell.
                signals.after_task_publish.connect(self.published, weak=False, dispatch_uid=_uid(self._app))
        return self._on

    def _open(self) -> Store[Entry]:
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
    for signal in (signals.worker_process_shutdown, signals.worker_shutdown):
        signal.connect(recorder.senders.stop, weak=False, dispatch_uid=_uid(app))
    runs.follow(app, "recorder", recorder)


def disconnect(app: Celery) -> None:
    """Record no more; what waits is still sent by the threads that have it."""
    for signal in (signals.after_task_publish, signals.worker_process_shutdown, signals.worker_shutdown):
        signal.disconnect(dispatch_uid=_uid(app))
    runs.unfollow(app, "recorder")
    vars(app).pop(_RECORDER, None)


def _uid(app: Celery) -> str:
    return f"dynprio-recorder-{id(app)}"
