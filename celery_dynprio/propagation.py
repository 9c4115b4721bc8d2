"""Carries the trace from the code that publishes a task into the process that runs it, whatever the pool.

``traceparent`` in a message names the span of the task itself: its publisher makes the id, so that the worker's parent
process and its pool process tell the same without asking each other. What led there travels in ``dynprio_lineage``:
``[level at publish, [[name, id, host, level, wait, ran], ...], parent span id]``, the root first; where nothing led to
a task there is no such header.

OpenTelemetry's Celery instrumentation writes a ``traceparent`` of its own: that one stays. If it was instrumented
before :func:`connect`, a task's span is the one that it made, else a parent of that; in both cases the trace is one.
"""

from __future__ import annotations

import hashlib
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from celery import signals

from celery_dynprio import message, tracing
from celery_dynprio.errors import DynPrioError
from celery_dynprio.message import clean
from celery_dynprio.tracing import LINEAGE, TRACEPARENT, TRACESTATE, Span, Spanned

if TYPE_CHECKING:
    from celery import Celery

    from celery_dynprio.settings import Settings

#: How many parts the header of the lineage has.
LINEAGE_PARTS: Final = 3

#: More retries than this are not told apart.
MAX_RETRIES: Final = 1_000_000

#: The attribute of a request that holds its run.
_RUN: Final = "_dynprio_run"

#: The attribute of a Celery app that holds who carries its traces.
_PROPAGATION: Final = "_dynprio_propagation"

#: What is kept of a run's message: what a span is made of, and what is recorded with it.
_NEEDED: Final = ("id", "task", "root_id", "retries", "eta", TRACEPARENT, TRACESTATE, LINEAGE, message.HEADER)

#: Makes a span for OpenTelemetry of each run, before us or after us, of what it finds in the request.
_INSTRUMENTATION: Final = "opentelemetry.instrumentation.celery"

#: The headers that this thread wrote last.
_last = threading.local()

_HEXADECIMAL: Final = frozenset("0123456789abcdef")


#: The state of a run that runs; Celery's name.
STARTED: Final = "STARTED"


class Told(NamedTuple):
    """What there is to tell of a run when it is asked."""

    run: Running
    #: Celery's: STARTED while it runs, and if it was ended from outside and has none.
    state: str
    #: Seconds; None while it runs.
    ran: float | None
    #: Type and text of the exception that ended it, in one line.
    error: str
    #: Whether nothing was told of it before.
    first: bool


class Running:
    """A run of a task in this process. Its span is made when somebody first asks: mostly, that is no task's thread.

    Holds nothing of the task's arguments, which may be of any size and are done with when the run is. ``outer`` is what
    has the span around an eager task, and ``started`` is in Unix seconds.
    """

    __slots__ = (
        "_began",
        "_done",
        "_end",
        "_fields",
        "_headers",
        "_key",
        "_span",
        "delivery_info",
        "host",
        "id",
        "known",
        "outer",
        "propagation",
        "started",
        "task",
    )

    def __init__(
        self, propagation: Propagation, task: Any, request: Any, fields: Mapping[str, Any], outer: Span | Spanned | None
    ) -> None:
        self.propagation = propagation
        self.task = task
        self.id = request.id
        self.delivery_info = request.delivery_info
        self.host = request.hostname
        self.outer = outer
        self._fields = tuple(map(fields.get, _NEEDED))
        self._span: Span | None = None
        self._headers: dict[str, Any] | None = None
        self._key = ""
        self._end: tuple[object, float, str] | None = None
        #: Whether somebody was told of it, and whether of its end.
        self.known = self._done = False
        self.started = time.time()
        self._began = time.perf_counter()

    @property
    def headers(self) -> dict[str, Any]:
        """What is kept of its message's headers; what that did not have is None."""
        if self._headers is None:
            self._headers = dict(zip(_NEEDED, self._fields, strict=True))
        return self._headers

    def span(self) -> Span:
        """The span of this run; two threads that ask at once are given equal ones."""
        if self._span is None:
            self._span = span_of_headers(
                self.headers,
                self.delivery_info,
                name=self.task.name,
                steps=self.propagation.steps(),
                host=self.host,
                started=self.started,
            )
        return self._span

    @property
    def key(self) -> str:
        """The span id that its message carries, whatever others have made of it: all processes tell the same."""
        return self._key or self.span().span_id

    def change(self, span: Span) -> None:
        """Take another span, which others have made for this run."""
        self._key = self.key
        self._span = span

    def end(self, state: object, error: str) -> None:
        """Note how it has ended."""
        self._end = state, time.perf_counter() - self._began, error

    def tell(self) -> Told | None:
        """What is known now; None if its end was told before. Not to be called by two threads at once.

        A run that ends while this is called is told as ended here, or finds itself ``known`` and has to be told again.
        """
        first, self.known = not self.known, True
        end = self._end  # after that
        if end is None:
            return Told(self, STARTED, None, "", first)
        if self._done:
            return None
        self._done = True
        state, ran, error = end
        return Told(self, state if isinstance(state, str) else STARTED, ran, error, first)

    @classmethod
    def of(cls, request: Any) -> Running | None:
        """The run that this is the request of; None if it was not seen to start."""
        found = vars(request).get(_RUN)
        return found if isinstance(found, cls) else None


class Propagation:
    """Writes the trace into what this process publishes, and sets it while an app's tasks run, in any pool.

    ``settings`` is called when it is first needed: an app may be configured after it was made. ``complete`` is called
    with each message before, and may change its priority.
    """

    def __init__(
        self, app: Celery, settings: Callable[[], Settings], complete: Callable[..., None] = lambda **_: None
    ) -> None:
        self._app = app
        self._settings = settings
        self._complete = complete
        #: Is given each run that is no eager one when it starts, and those that are ``known`` when they end.
        self.follower: Callable[[Running], None] | None = None
        self._known: tuple[Sequence[int] | None] | None = None

    @staticmethod
    def of(app: Celery) -> Propagation | None:
        """Who carries the traces of this app, None if nobody does."""
        found: Propagation | None = vars(app).get(_PROPAGATION)
        return found

    def publishing(self, headers: Any = None, properties: Any = None, body: Any = None, **_: Any) -> None:
        """Receive ``before_task_publish``; all that is to be done there, because each receiver costs a microsecond."""
        self._complete(headers=headers, properties=properties, body=body)
        # The signal does not tell the app: with two of them in a process, the first one does it.
        if headers is not getattr(_last, "headers", None):
            _last.headers = headers
            self._write(headers, properties)

    def started(self, task: Any, **_: Any) -> None:
        """Receive ``task_prerun``: let what a run does belong to its span."""
        if task.app is not self._app:
            return
        request = task.request
        fields, outer, eager = vars(request), None, request.is_eager
        # That OpenTelemetry is imported says little: redis-py does that itself where it is installed.
        active = tracing.opentelemetry_span()
        if eager:
            fields, outer, around = self._eager_fields(request), tracing.spanned(), tracing.current()
            if active is not None and around is not None and active.span_id == around.span_id:
                active = None  # that is what is around this task, not its own
        run = Running(self, task, request, fields, outer)
        if active is not None or _INSTRUMENTATION in sys.modules:
            run.change(_as_opentelemetry(run.span(), request, active))
        vars(request)[_RUN] = run
        tracing._current.set(run)  # noqa: SLF001 - its other half
        if self.follower is not None and not eager:
            self.follower(run)

    def ended(self, task: Any, task_id: object = None, state: object = None, retval: object = None, **_: Any) -> None:
        """Receive ``task_postrun``: let what follows belong to no run. A run that ends with its process sends none."""
        run = tracing.spanned()
        if type(run) is not Running or run.task is not task or run.id != task_id or run.propagation is not self:
            # A pool may end a task in another context; it takes longer to find the run by its request.
            found = Running.of(task.request) if task.app is self._app else None
            if found is None:
                return
            run = found
        # Only an eager task has code around it; by value, for the same reason.
        tracing._current.set(run.outer)  # noqa: SLF001 - as above
        if self.follower is not None:
            run.end(state, "" if state == "SUCCESS" or not isinstance(retval, BaseException) else tracing.said(retval))
            if run.known:
                self.follower(run)

    def retrying(self, request: Any, reason: Any = None, **_: Any) -> None:
        """Receive ``task_retry``: an eager retry is no message, and runs when this run has ended."""
        signature = getattr(reason, "sig", None)
        if not request.is_eager or signature is None or Running.of(request) is None:
            return
        headers = {"id": request.id, "retries": request.retries + 1}
        self._write(headers, {})
        trace = {name: headers[name] for name in (TRACEPARENT, TRACESTATE, LINEAGE) if name in headers}
        signature.options["headers"] = {**(request.headers or {}), **trace}

    def _eager_fields(self, request: Any) -> dict[str, Any]:
        """What the message of an eager task would have carried."""
        handed = request.headers if isinstance(request.headers, dict) else {}
        fields = {**vars(request), **handed, "id": request.id, "retries": request.retries}
        if not (request.retries and LINEAGE in handed):
            self._write(fields, request.delivery_info)
        return fields

    def _write(self, headers: dict[str, Any], properties: Any) -> None:
        span, active = tracing.current(), tracing.opentelemetry_span()
        if span is None and active is None and TRACEPARENT not in headers:  # most of what is published outside of tasks
            headers[TRACEPARENT] = tracing.new_root()
            for name in (TRACESTATE, LINEAGE):
                headers.pop(name, None)
            return
        if active is not None and span is not None and active.span_id == span.span_id:
            active = None  # the span itself
        # Where OpenTelemetry has a trace its instrumentation will go on with that, so do we.
        base = active or span or tracing.read(headers.get(TRACEPARENT), headers.get(TRACESTATE))
        # A header that web code has injected by hand would name all the tasks of its request alike.
        if (
            active is None
            or headers.get(TRACEPARENT) != active.traceparent
            or tracing.opentelemetry_kind() != "PRODUCER"
        ):
            _write_ids(headers, base)
        if base is None:
            headers.pop(LINEAGE, None)  # a caller may hand on the headers of another message
            return
        parent = (span or base).span_id
        ancestors = () if span is None else span.lineage
        if span is not None and span.task_id:
            if clean(headers.get("id")) == span.task_id and _count(headers.get("retries")) >= span.attempt:
                parent = span.parent_span_id  # a retry is no child of the run before it
            else:
                ancestors = (*ancestors, tracing.itself(span))
        steps = self.steps()
        level = None if steps is None else message.level_of(properties.get("priority") or 0, steps)
        headers[LINEAGE] = [level, [each.row() for each in tracing.bounded(ancestors)], parent]

    def steps(self) -> Sequence[int] | None:
        """Give kombu's ``priority_steps`` of the app, None if its broker has no levels."""
        if self._known is None:
            self._known = (steps_of(self._app, self._settings),)
        return self._known[0]


def steps_of(app: Celery, settings: Callable[[], Settings]) -> Sequence[int] | None:
    """Give kombu's ``priority_steps`` of this app, one for each level; None if its broker has no levels."""
    from celery_dynprio.backlogs.redis_client import REDIS_TRANSPORTS  # noqa: PLC0415 - redis is slow to import

    if app.connection_for_write().get_transport_cls().driver_type not in REDIS_TRANSPORTS:
        return None
    try:
        settings()  # reading them sets and checks the steps
        steps = tuple((app.conf.broker_transport_options or {}).get("priority_steps", message.KOMBU_STEPS))
    except DynPrioError:  # said where the settings matter
        return None
    return steps


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
    """Carry no more traces; doing it twice changes nothing."""
    for signal in (signals.before_task_publish, signals.task_retry, signals.task_prerun, signals.task_postrun):
        signal.disconnect(dispatch_uid=_uid(app))
    vars(app).pop(_PROPAGATION, None)


def _uid(app: Celery) -> str:
    return f"dynprio-propagation-{id(app)}"


def span_of_headers(
    headers: Mapping[str, Any],
    delivery_info: object = None,
    *,
    name: str | None = None,
    steps: Sequence[int] | None = None,
    host: str = "",
    started: float | None = None,
) -> Span:
    """Make the span of a run from its message; it never raises, and all processes make the same of one message.

    ``name`` is the task's, that in the headers if None. ``steps`` are kombu's ``priority_steps`` (None if the broker
    has no levels), ``host`` is the worker's name and ``started`` the time (Unix seconds) up to which the task has
    waited. What is missing in the headers, or not as this module writes it, counts as absent: a message without a trace
    gets one that follows from its root's id.
    """
    delivery = delivery_info if isinstance(delivery_info, Mapping) else {}
    task_id, retries = clean(headers.get("id")), _count(headers.get("retries"))
    known = tracing.read(headers.get(TRACEPARENT), headers.get(TRACESTATE))
    _, ancestors, parent = _parts(headers.get(LINEAGE))
    return Span(
        known.trace_id if known else _digest(headers.get("root_id") or task_id)[:32],
        known.span_id if known else _digest(f"{task_id} {retries}")[:16],
        parent if isinstance(parent, str) and len(parent) == 16 and _HEXADECIMAL.issuperset(parent) else "",  # noqa: PLR2004
        known.flags if known else 1,
        known.tracestate if known else "",
        task_id,
        clean(headers.get("task") if name is None else name),
        clean(delivery.get("routing_key")),
        clean(host),
        _level(delivery.get("priority"), steps),
        _wait(headers.get(message.HEADER), started),
        retries + 1,
        started,
        tracing.ancestors(ancestors),
    )


def needed(headers: Mapping[str, Any]) -> dict[str, Any]:
    """What a span and its record are made of, and nothing else that may be in a message."""
    return {name: headers.get(name) for name in _NEEDED}


def level_at_publish(headers: Mapping[str, Any], level: int | None = None) -> int | None:
    """The level that a message was published with; None if that is not known. It is at ``level`` now."""
    known = message.whole(_parts(headers.get(LINEAGE))[0])
    if known is not None:
        return known
    moves = message.moves_of(headers.get(message.HEADER))
    if not moves:
        return level
    return moves[0].source if moves[0].source >= 0 else None


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
    """Take the ids of the span that OpenTelemetry has made for this run, or let it take ours."""
    if active is not None and (not request.is_eager or tracing.opentelemetry_kind() == "CONSUMER"):
        ids = span._replace(trace_id=active.trace_id, span_id=active.span_id)
        return ids._replace(flags=active.flags, tracestate=active.tracestate)
    # Its instrumentation reads the header from the request.
    request.traceparent = span.traceparent
    return span


def _parts(header: object) -> Sequence[Any]:
    return header if isinstance(header, list) and len(header) == LINEAGE_PARTS else (None, None, None)


def _digest(text: object) -> str:
    known = text if isinstance(text, str) else ""
    return hashlib.sha256(known.encode(errors="surrogatepass")).hexdigest()


def _count(number: object) -> int:
    return min(number, MAX_RETRIES) if type(number) is int and number > 0 else 0


def _level(priority: object, steps: Sequence[int] | None) -> int | None:
    return message.level_of(priority, steps) if steps and type(priority) is int else None


def _wait(fields: object, started: float | None) -> float | None:
    published = message.number(fields.get("at")) if isinstance(fields, dict) else None
    return None if published is None or started is None else max(started - published, 0.0)
