"""Tells what becomes of the tasks of this process: to the trace store, and to all that learns from runs or counts them.

On a task's path the run alone is put aside, once: what there is to tell of it is read in the sender's thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from celery import signals
from celery._state import get_current_worker_task

from celery_dynprio import message
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.spans import RedisSpans
from celery_dynprio.ports.spans import Spans
from celery_dynprio.producer.propagation import Propagation
from celery_dynprio.tracing import context as tracing
from celery_dynprio.tracing.context import LINEAGE, Span
from celery_dynprio.tracing.records import FAILED, MAX_ERROR, RANKS, SpanRecord
from celery_dynprio.tracing.runs import STARTED, Running, Told, level_at_publish, needed, span_of_headers
from celery_dynprio.worker import usage
from celery_dynprio.worker.sender import Outlet, Sender, Senders, Store

if TYPE_CHECKING:
    from celery import Celery

    from celery_dynprio.settings import Settings

#: The attribute of a Celery app that holds its recorder.
_RECORDER: Final = "_dynprio_recorder"


class Published(NamedTuple):
    """A task of this process published another; of it there is the message only, which is read when it is sent."""

    headers: Mapping[str, Any]
    queue: str


class Seen(NamedTuple):
    """What the worker's parent process knows of a run, or of a message that is not run at all."""

    state: str
    span: Span
    headers: Mapping[str, Any]
    #: Seconds; None if it did not run.
    ran: float | None
    #: Type and text of the exception in one line.
    error: str


#: What is sent, and what is put aside: of a run, what there is to tell is asked for when it is sent.
Telling: TypeAlias = Told | Published | Seen
Entry: TypeAlias = Running | Published | Seen


def record_of(told: Telling) -> SpanRecord:
    """What the trace store keeps of it."""
    if isinstance(told, Told):
        run = told.run
        ran = None if told.state == STARTED else told.ran
        return _record(told.state, run.span(), run.key, run.headers, ran, told.error)
    if isinstance(told, Published):
        span = span_of_headers(told.headers, {"routing_key": told.queue})
        return _record("PENDING", span, span.span_id, told.headers)
    return _record(told.state, told.span, told.span.span_id, told.headers, told.ran, told.error)


def _record(  # noqa: PLR0917 - what a record is made of
    state: str, span: Span, key: str, headers: Mapping[str, Any], ran: float | None = None, error: str = ""
) -> SpanRecord:
    fields, lineage = headers.get(message.HEADER), span.lineage
    return SpanRecord(
        span.trace_id,
        key,
        span.task_id,
        span.task_name,
        state,
        span.span_id,
        span.parent_span_id,
        lineage[-1].id if lineage else "",
        span.queue,
        span.host,
        span.attempt,
        message.number(fields.get("at")) if isinstance(fields, dict) else None,
        span.started,
        level_at_publish(headers, span.level),
        span.level,
        span.wait,
        ran,
        error[:MAX_ERROR],
        tuple(message.moves_of(fields)),
        lineage if RANKS.get(state, FAILED) == FAILED else (),
    )


def coalesced(records: Iterable[SpanRecord]) -> Iterable[SpanRecord]:
    """The last record of each run: what a store would keep of them."""
    latest: dict[tuple[str, str, str], SpanRecord] = {}
    for record in records:
        run = record.trace_id, record.task_id, record.key
        known = latest.get(run)
        if known is None or known.rank <= record.rank:
            latest[run] = record
    return latest.values()


class _Traces:
    """Takes what is told into the trace store, and counts what that did not get."""

    def __init__(self, open_spans: Callable[[], RedisSpans]) -> None:
        self.not_sent = 0
        self._open = open_spans
        self._spans: RedisSpans | None = None

    @property
    def no_room(self) -> int:
        return 0 if self._spans is None else self._spans.dropped

    def add(self, entries: Sequence[Telling], /) -> None:
        records = list(coalesced(map(record_of, entries)))
        self.not_sent += len(records)  # until there is an answer
        if self._spans is None:
            self._spans = self._open()
        before = self._spans.taken
        try:
            self._spans.add(records)
        finally:
            self.not_sent -= self._spans.taken - before

    def close(self) -> None:
        if self._spans is not None:
            self._spans.close()


class _Dropped:
    """Tells Prometheus what the trace store did not get; after it, at each send."""

    def __init__(self, spans: Spans, totals: Callable[[], Mapping[str, int]]) -> None:
        self._spans = spans
        self._totals = totals

    def add(self, _: Sequence[Telling], /) -> None:
        self._spans.add_dropped(self._totals())

    def close(self) -> None:
        self._spans.close()


class _Connection:
    """The client that all share; that the broker is away only the first of them finds out in each send."""

    def __init__(self, connect: Callable[[], RedisClient]) -> None:
        self._connect = connect
        self._client: RedisClient | None = None
        self._problem: Exception | None = None

    def __call__(self) -> RedisClient:
        if self._problem is not None:
            raise self._problem
        if self._client is None:
            try:
                self._client = self._connect()
            except Exception as exc:
                self._problem = exc
                raise
        return self._client

    def try_again(self) -> None:
        self._problem = None

    def rest(self) -> None:
        if self._client is not None:
            self._client.rest()


class _All:
    """All that takes in what a process tells; what goes wrong with one of them concerns none of the others."""

    def __init__(self, outlets: Sequence[Outlet[Telling]], before: Callable[[], None] = lambda: None) -> None:
        self._outlets = outlets
        self._before = before

    def add(self, entries: Sequence[Entry], /) -> None:
        told = [entry.tell() if isinstance(entry, Running) else entry for entry in entries]
        telling = [each for each in told if each is not None]
        self._before()
        for outlet in self._outlets:
            outlet.add(telling)

    def close(self) -> None:
        for outlet in self._outlets:
            outlet.close()


def _lost(entry: Entry) -> None:
    if isinstance(entry, Running):
        entry.tell()  # to nobody: its end, if it is still to come, is told all the same


class Recorder:
    """Tells what becomes of one app's tasks in this process, in any pool, forked or not; eager ones are left out.

    ``settings`` is called when the first task runs: an app may be configured after it was made.
    """

    def __init__(self, app: Celery, settings: Callable[[], Settings]) -> None:
        self._app = app
        self._settings = settings
        self._on: bool | None = None
        self._traced = False
        self.senders: Senders[Entry] = Senders("what tasks did", self._open, _lost)

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
            self.senders.put(Seen(state, span, needed(headers), ran, tracing.said(exc)))

    def _decide(self) -> bool:
        """Look into the settings, once, whether anything is to be told, and of what."""
        settings = self._settings()
        if settings.trace:
            # Only where tasks run: publishers elsewhere have nothing to tell.
            signals.after_task_publish.connect(self.published, weak=False, dispatch_uid=_uid(self._app))
        self._traced = settings.trace
        return settings.trace or settings.learn or settings.metrics_port is not None or bool(settings.objectives)

    def _open(self, sender: Sender[Entry]) -> Store[Entry]:
        settings, client = self._settings(), _Connection(lambda: RedisClient.from_app(self._app))
        sender.rest = client.rest
        outlets: list[Outlet[Telling]] = usage.outlets(client, settings)
        if settings.trace:
            bounds = settings.trace_ttl, settings.trace_max_spans, settings.trace_total_spans
            traces = _Traces(lambda: RedisSpans(client(), *bounds))
            outlets.append(Outlet("trace spans", lambda: traces))
            if settings.metrics_port is not None:

                def totals() -> dict[str, int]:
                    return {"no_room": traces.no_room, "not_sent": traces.not_sent + sender.dropped}

                outlets.append(Outlet("counts of dropped spans", lambda: _Dropped(RedisSpans(client()), totals)))
        return _All(outlets, client.try_again)


def connect(app: Celery, settings: Callable[[], Settings]) -> None:
    """Tell of the tasks of this app from now on; a second call changes nothing.

    To be called after :func:`celery_dynprio.producer.propagation.connect`, which follows their runs.
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
