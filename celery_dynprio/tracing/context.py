"""The trace that a task belongs to, in the code that it runs and in the tasks that it publishes.

A published task continues the trace of the task that publishes it, of an OpenTelemetry span, or of :func:`use` in web
code. Otherwise a new trace begins. The ids are those of W3C Trace Context (https://www.w3.org/TR/trace-context/).
"""

from __future__ import annotations

import functools
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, ParamSpec, Protocol, TypeVar

from celery._state import _task_stack, get_current_worker_task

from celery_dynprio.message import MAX_TEXT, clean, number, whole

#: Message headers: the two of W3C, and ours with the lineage.
TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
LINEAGE: Final = "dynprio_lineage"

#: The longest lineage in a message, in ancestors; of a longer one the root and the nearest are kept.
MAX_LINEAGE: Final = 16

#: The longest ``tracestate`` that is passed on (characters): the least that W3C requires.
MAX_STATE: Final = 512

#: The attribute of an exception that holds the report of the task that it ended.
TOLD: Final = "_dynprio_report"

#: The longest text of an exception in the first line of a report (characters).
MAX_SAID: Final = 500

P = ParamSpec("P")
T = TypeVar("T")

_ANCESTOR_FIELDS: Final = 6

#: The length of a ``traceparent`` of version 00.
_VERSION_0: Final = 55

_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-[!-~]*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A task that led to another one, as it was when it published the next task."""

    name: str
    id: str
    #: The worker that ran it, as ``celery@host``.
    host: str = ""
    #: The level from which it was taken, and how long it waited (seconds); None if unknown.
    level: int | None = None
    wait: float | None = None
    #: How long it had run (seconds) when it published the next task.
    ran: float | None = None

    def row(self) -> list[Any]:
        """Return it as a list for the header; :func:`ancestors` reads it."""
        wait, ran = (None if seconds is None else round(seconds, 3) for seconds in (self.wait, self.ran))
        return [self.name, self.id, self.host, self.level, wait, ran]


class Span(NamedTuple):
    """One run of a task, or a block of :func:`use`. A tuple, because it is quick to make, and each task needs one."""

    #: 32 and 16 hexadecimal digits.
    trace_id: str
    span_id: str
    #: The span that published this task; "" at the root.
    parent_span_id: str = ""
    #: W3C trace flags, 0 to 255; 1 means sampled.
    flags: int = 1
    tracestate: str = ""
    # The fields below are empty outside of tasks.
    task_id: str = ""
    task_name: str = ""
    queue: str = ""
    host: str = ""
    level: int | None = None
    #: Seconds between publishing and start.
    wait: float | None = None
    #: 1 for the first try.
    attempt: int = 0
    #: Unix seconds.
    started: float | None = None
    #: The tasks that led here, the root first.
    lineage: tuple[Ancestor, ...] = ()

    @property
    def traceparent(self) -> str:
        """The W3C header that names this span."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"


class Spanned(Protocol):
    """Something that has a span, and may make it when it is first needed."""

    def span(self) -> Span:
        """The span."""


class Deferred:
    """Runs a block in a span that is only made if it is needed, which is rare."""

    __slots__ = ("_make", "_span", "_token")

    def __init__(self, make: Callable[[], Span]) -> None:
        self._make = make
        self._span: Span | None = None

    def __enter__(self) -> None:
        self._token = _current.set(self)

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)

    def span(self) -> Span:
        """Return the span, which is made once."""
        if self._span is None:
            self._span = self._make()
        return self._span


_current: ContextVar[Span | Spanned | None] = ContextVar("dynprio_span", default=None)


def current() -> Span | None:
    """Return the span that this code runs in; None outside of any."""
    found = _current.get()
    return found if found is None or isinstance(found, Span) else found.span()


def spanned() -> Span | Spanned | None:
    """Return the span that this code runs in, or what would make it, without making it. None outside of any."""
    return _current.get()


@contextmanager
def use(traceparent: object = None, tracestate: object = None) -> Iterator[Span]:
    """Let tasks that are published in this block belong to the trace of a ``traceparent`` header.

    Without a header, or with one that W3C does not allow, a new trace begins. If an OpenTelemetry span is active, it is
    the span of this block, whatever the header is. Otherwise, OpenTelemetry spans in this block join the block's trace.
    The context manager gives the span of this block.
    """
    active, outer = opentelemetry_span(), current()
    if active is not None and outer is not None and active.span_id == outer.span_id:
        active = None  # an outer block made it of its own header
    span = active or child(read(traceparent, tracestate))
    with resume(span):
        yield span


@contextmanager
def resume(span: Span) -> Iterator[None]:
    """Let this block belong to an existing span."""
    token = _current.set(span)
    try:
        with _in_opentelemetry(span):
            yield
    finally:
        _current.reset(token)


def read(traceparent: object, tracestate: object = None) -> Span | None:
    """Read the W3C headers; None if ``traceparent`` is invalid. Never raises, whatever the headers are."""
    if not isinstance(traceparent, str) or len(traceparent) > MAX_TEXT:
        return None
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None or not found[1].strip("0") or not found[2].strip("0"):
        return None
    # Only later versions of the standard allow anything behind the flags.
    if len(traceparent) > _VERSION_0 and traceparent.startswith("00"):
        return None
    printable = isinstance(tracestate, str) and len(tracestate) <= MAX_STATE and tracestate.isprintable()
    return Span(found[1], found[2], flags=int(found[3], 16), tracestate=str(tracestate) if printable else "")


def bounded(lineage: Sequence[T]) -> Sequence[T]:
    """Shorten a lineage to the root and the nearest ancestors if it is too long."""
    return lineage if len(lineage) <= MAX_LINEAGE else [lineage[0], *lineage[-(MAX_LINEAGE - 1) :]]


def ancestors(rows: object) -> tuple[Ancestor, ...]:
    """Read a lineage; malformed parts are left out."""
    if not isinstance(rows, list):
        return ()
    return tuple(
        Ancestor(clean(row[0]), clean(row[1]), clean(row[2]), whole(row[3]), number(row[4]), number(row[5]))
        for row in bounded(rows)
        if isinstance(row, list) and len(row) == _ANCESTOR_FIELDS
    )


def child(parent: Span | None) -> Span:
    """Return a new span under this one, or the root of a new trace."""
    trace_id, span_id = new_ids()
    if parent is None:
        return Span(trace_id, span_id)
    return parent._replace(span_id=span_id, parent_span_id=parent.span_id)


def new_ids() -> tuple[str, str]:
    """Return a trace id and a span id, from the system, so that ``random.seed()`` in a task makes no duplicates."""
    digits = _digits()
    return digits[:32], digits[32:]


def new_root() -> str:
    """Return the ``traceparent`` of a new trace."""
    digits = _digits()
    return f"00-{digits[:32]}-{digits[32:]}-01"


class _Digits:
    """Random hexadecimal digits for ids, many from each system call."""

    AT_A_TIME: Final = 64

    def __init__(self) -> None:
        self._left: list[str] = []
        self._process = 0

    def __call__(self) -> str:
        process = os.getpid()
        if process != self._process:  # a forked process has its parent's digits
            self._left, self._process = [], process
        try:
            return self._left.pop()
        except IndexError:
            digits = os.urandom(24 * self.AT_A_TIME).hex()
            self._left += [digits[start : start + 48] for start in range(48, len(digits), 48)]
            return digits[:48]


_digits: Final = _Digits()


def opentelemetry_span() -> Span | None:
    """Return the active OpenTelemetry span; None if there is none, or OpenTelemetry is not imported."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    # While another thread still imports it, the module is there without its names.
    get: Any = getattr(trace, "get_current_span", None)
    if get is None:
        return None
    found = get().get_span_context()
    if not found.is_valid:
        return None
    state = found.trace_state.to_header() if found.trace_state else ""
    return Span(f"{found.trace_id:032x}", f"{found.span_id:016x}", flags=int(found.trace_flags), tracestate=state)


def opentelemetry_kind() -> str:
    """Return the kind of the active OpenTelemetry span, such as ``CONSUMER``; "" if none is active and recorded."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    get: Any = getattr(trace, "get_current_span", None)
    return "" if get is None else str(getattr(getattr(get(), "kind", None), "name", ""))


@contextmanager
def _in_opentelemetry(span: Span) -> Iterator[None]:
    """Let OpenTelemetry spans in this block join the span's trace, if OpenTelemetry is used."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    if getattr(trace, "use_span", None) is None:
        yield
        return
    active = opentelemetry_span()
    if active is not None and active.span_id == span.span_id:
        yield
        return
    ids = int(span.trace_id, 16), int(span.span_id, 16)
    state = trace.TraceState.from_header([span.tracestate])
    context = trace.SpanContext(*ids, is_remote=True, trace_flags=trace.TraceFlags(span.flags), trace_state=state)
    with trace.use_span(trace.NonRecordingSpan(context), record_exception=False, set_status_on_exception=False):
        yield


def describe(span: Span, exc: BaseException) -> str:
    """Return the report as text, without the traceback: the failure, then the tasks that led here, the root first."""
    lines = [f"task {span.task_name}[{span.task_id}] failed for good in trace {span.trace_id}: {said(exc)}"]
    for depth, each in enumerate((*span.lineage, itself(span))):
        level = "" if each.level is None else f", P{each.level}"
        wait = "" if each.wait is None else f", waited {each.wait:.3f} s"
        ran = "" if each.ran is None else f", ran {each.ran:.3f} s"
        lines.append(f"  {'  ' * depth}{each.name}[{each.id}] on {each.host or 'an unknown worker'}{level}{wait}{ran}")
    return "\n".join(lines)


def report(exc: BaseException) -> str:
    """Return the report with the traceback, for Sentry and the like, of the task that runs or that ``exc`` ended."""
    told, span = getattr(exc, TOLD, None), current()
    if not isinstance(told, str):
        told = None if span is None else describe(span, exc)
    trace = "".join(traceback.format_exception(type(exc), exc, exc.__traceback__)).rstrip()
    return trace if told is None else f"{told}\n{trace}"


def said(exc: BaseException) -> str:
    """Return type and text of an exception in one line that is safe to log, whatever its class does."""
    try:
        text = " ".join(str(exc).split())[:MAX_SAID]
    except Exception:  # noqa: BLE001 - of the user's own __str__
        text = "<no text: its __str__ failed>"
    return f"{type(exc).__name__}: {text if text.isprintable() else text.encode('unicode_escape').decode()[:MAX_SAID]}"


def itself(span: Span) -> Ancestor:
    """Return the task of this span as an ancestor of the tasks that it publishes now."""
    ran = None if span.started is None else max(time.time() - span.started, 0.0)
    return Ancestor(span.task_name, span.task_id, span.host, span.level, span.wait, ran)


def wrap(fn: Callable[P, T]) -> Callable[P, T]:
    """Wrap a function for another thread, so that it runs in the present trace and task.

    It gets a copy of the context variables, including the trace, and Celery's current task, from which tasks that it
    publishes inherit key, weight and deadline. The result may be called any number of times, also concurrently.
    """
    context = copy_context()
    task = get_current_worker_task()
    request = None if task is None else task.request

    def with_task(*args: P.args, **kwargs: P.kwargs) -> T:
        if task is None:
            return fn(*args, **kwargs)
        # Celery keeps both for each thread or greenlet, and looks them up together.
        _task_stack.push(task)
        task.request_stack.push(request)
        try:
            return fn(*args, **kwargs)
        finally:
            task.request_stack.pop()
            _task_stack.pop()

    @functools.wraps(fn)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        # A context can only be entered once at a time, so each call gets its own.
        return context.copy().run(with_task, *args, **kwargs)

    return run


class Executor(futures.Executor):
    """An executor whose calls run in the trace and task that submit them; see :func:`wrap`.

    Use it as ``Executor(ThreadPoolExecutor())``. It cannot wrap an executor of processes, because a context cannot be
    sent to another process.
    """

    def __init__(self, executor: futures.Executor) -> None:
        self._executor = executor

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> futures.Future[T]:
        """Submit to the executor; ``map`` of the base class uses this, too."""
        return self._executor.submit(wrap(fn), *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - as its base
        """Shut the executor down."""
        self._executor.shutdown(wait, cancel_futures=cancel_futures)
