"""Tells what becomes of the tasks of this process: to the trace store, and to all that learns from runs or counts them.

On a task's path the run alone is put aside, once: what there is to tell of it is read in the sender's thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from celery import signals
from celery._state import get_current_worker_task

from celery_dynprio import message, tracing, usage
from celery_dynprio.backlogs.redis_client import RedisClient
from celery_dynprio.models import Moved
from celery_dynprio.propagation import Propagation, Running, Told, level_at_publish, span_of_headers
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


class Published(NamedTuple):
    """A task of this process published another; of it there is the message only, which is read when it is sent."""

    headers: Mapping[str, Any]
    queue: str

    def event(self) -> Event:
        """The same as an event."""
        span = span_of_headers(self.headers, {"routing_key": self.queue})
        return Event("PENDING", span, Known.of(self.headers, span))


#: What is sent, and what is put aside: of a run, what there is to tell is asked for when it is sent.
Telling: TypeAlias = Event | Told | Published
Entry: TypeAlias = Event | Running | Published


def event_of(told: Telling) -> Event:
    """What is recorded of what was told."""
    if not isinstance(told, Told):
        return told if isinstance(told, Event) else told.event()
    span = told.run.span()
    return Event(told.state, span, Known.of(told.run.headers, span), told.ran, told.error[:MAX_ERROR])


def coalesced(events: Iterable[Event]) -> Iterable[Event]:
    """The last of the events of each run: what a store would keep of them."""
    latest: dict[tuple[str, str, str], Event] = {}
    for event in events:
        run = event.span.trace_id, event.span.task_id, event.known.key
        known = latest.get(run)
        if known is None or known.rank <= event.rank:
            latest[run] = event
    return latest.values()


class _Traces:
    """Takes what is told into the trace store."""

    def __init__(self, spans: RedisSpans) -> None:
        self._spans = spans

    def add(self, entries: Sequence[Telling], /) -> None:
        self._spans.add([event.record() for event in coalesced(map(event_of, entries))])

    def close(self) -> None:
        self._spans.close()


class _Stores:
    """All that takes in what a process tells; one that fails keeps it from none of the others."""

    def __init__(self, stores: Sequence[Store[Telling]]) -> None:
        self._stores = stores

    def add(self, entries: Sequence[Entry], /) -> None:
        """Take it in; raises the first error of any of them."""
        told = [entry.tell() if isinstance(entry, Running) else entry for entry in entries]
        telling = [each for each in told if each is not None]
        failed = None
        for store in self._stores:
            try:
                store.add(telling)
            except Exception as exc:  # noqa: BLE001 - raised below
                failed = failed or exc
        if failed is not None:
            raise failed

    def close(self) -> None:
        """Give back what they hold of the broker."""
        for store in self._stores:
            store.close()


class Recorder:
    """Tells what becomes of one app's tasks in this process, in any pool, forked or not; eager ones are left out.

    ``settings`` is called when the first task runs: an app may be configured after it was made.
    """

    def __init__(self, app: Celery, settings: Callable[[], Settings]) -> None:
        self._app = app
        self._settings = settings
        self._on: bool | None = None
        self._traced = False
        self.senders: Senders[Entry] = Senders("what tasks did", self._open)

    @staticmethod
    def of(app: Celery) -> Recorder | None:
        """The recorder of this app, None if it has none."""
        found: Recorder | None = getattr(app, _RECORDER, None)
        return found

    def follow(self, run: Running) -> None:
        """Take in a run that begins, or that has ended since it was told of."""
        if self._on is None:
            self._on = self._decide()
        if self._on:
            self.senders.put(run)

    def published(self, headers: Any = None, routing_key: Any = None, **_: Any) -> None:
        """Receive ``after_task_publish``: what a task publishes belongs to its trace before any worker has it."""
        task = get_current_worker_task()
        if task is not None and task.app is self._app and isinstance(headers, dict) and LINEAGE in headers:
            self.senders.put(Published(headers, str(routing_key or "")))

    def told(self, state: str, span: Span, headers: Mapping[str, Any], exc: BaseException) -> None:
        """Record what the worker's parent process knows of a run, or of a message that is not run at all."""
        if self._on is None:
            self._on = self._decide()
        if self._traced:
            ran = None if span.started is None else max(time.time() - span.started, 0.0)
            self.senders.put(Event(state, span, Known.of(headers, span), ran, tracing.said(exc)[:MAX_ERROR]))

    def _decide(self) -> bool:
        """Look into the settings, once, whether anything is to be told, and of what."""
        settings = self._settings()
        if settings.trace:
            # Only where tasks run: publishers elsewhere have nothing to tell.
            signals.after_task_publish.connect(self.published, weak=False, dispatch_uid=_uid(self._app))
        self._traced = settings.trace
        return settings.trace or settings.learn or settings.metrics_port is not None or bool(settings.objectives)

    def _open(self) -> Store[Entry]:
        settings, client = self._settings(), RedisClient.from_app(self._app)
        stores: list[Store[Telling]] = usage.stores(client, settings)
        if settings.trace:
            bounds = settings.trace_ttl, settings.trace_max_spans, settings.trace_total_spans
            stores.append(_Traces(RedisSpans(client, *bounds)))
        return _Stores(stores)


def connect(app: Celery, settings: Callable[[], Settings]) -> None:
    """Tell of the tasks of this app from now on; a second call changes nothing.

    To be called after :func:`celery_dynprio.propagation.connect`, which follows their runs.
    """
    if Recorder.of(app) is not None:
        return
    recorder = Recorder(app, settings)
    setattr(app, _RECORDER, recorder)
    for signal in (signals.worker_process_shutdown, signals.worker_shutdown):
        signal.connect(recorder.senders.stop, weak=False, dispatch_uid=_uid(app))
    propagation = Propagation.of(app)
    if propagation is not None:
        propagation.follower = recorder.follow


def disconnect(app: Celery) -> None:
    """Tell no more; what waits is still sent by the threads that have it."""
    for signal in (signals.after_task_publish, signals.worker_process_shutdown, signals.worker_shutdown):
        signal.disconnect(dispatch_uid=_uid(app))
    propagation = Propagation.of(app)
    if propagation is not None:
        propagation.follower = None
    vars(app).pop(_RECORDER, None)


def _uid(app: Celery) -> str:
    return f"dynprio-recorder-{id(app)}"
