"""Which request caused what: the trace that a task belongs to, in the code that it runs and in what it publishes.

A trace goes on from the task that publishes, from an OpenTelemetry span, or from :func:`use` in web code; else it
starts.
The ids are those of W3C Trace Context (https://www.w3.org/TR/trace-context/).
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

#: The longest lineage that travels (ancestors: the root and the nearest are kept).
MAX_LINEAGE: Final = 16

#: The longest ``tracestate`` that is passed on (characters), as W3C asks for at least.
MAX_STATE: Final = 512

#: The attribute of an exception that holds the report of the task that it ended.
TOLD: Final = "_dynprio_report"

#: The longest text of an exception in the first line (characters).
MAX_SAID: Final = 500

P = ParamSpec("P")
T = TypeVar("T")

_ANCESTOR_FIELDS: Final = 6

#: The length of a ``traceparent`` of version 00.
_VERSION_0: Final = 55

_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-[!-~]*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A task that led to another one, as it was when it published that."""

    name: str
    id: str
    #: The worker that ran it, as ``celery@host``.
    host: str = ""
    #: The level in which it waited, and for how long (seconds); None if that is not known.
    level: int | None = None
    wait: float | None = None
    #: Seconds for which it had run when it published the next one.
    ran: float | None = None

    def row(self) -> list[Any]:
        """What is written of it; :func:`ancestors` reads it."""
        wait, ran = (None if seconds is None else round(seconds, 3) for seconds in (self.wait, self.ran))
        return [self.name, self.id, self.host, self.level, wait, ran]


class Span(NamedTuple):
    """One run of a task, or what web code declared with :func:`use`. A tuple, because each task needs one made."""

    #: 32 and 16 hexadecimal digits.
    trace_id: str
    span_id: str
    #: The span that published this task; "" at the root.
    parent_span_id: str = ""
    #: W3C trace flags, 0 to 255; 1 means sampled.
    flags: int = 1
    tracestate: str = ""
    # What follows is empty outside of tasks.
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
    """Something that has a span, and may make it when it is asked."""

    def span(self) -> Span:
        """The span."""


class Deferred:
    """Lets a block belong to a span that is made when somebody first asks for it: mostly, nobody does."""

    __slots__ = ("_make", "_span", "_token")

    def __init__(self, make: Callable[[], Span]) -> None:
        self._make = make
        self._span: Span | None = None

    def __enter__(self) -> None:
        self._token = _current.set(self)

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)

    def span(self) -> Span:
        """The span; made once."""
        if self._span is None:
            self._span = self._make()
        return self._span


_current: ContextVar[Span | Spanned | None] = ContextVar("dynprio_span", default=None)


def current() -> Span | None:
    """The span that this code runs in; None outside of any."""
    found = _current.get()
    return found if found is None or isinstance(found, Span) else found.span()


def spanned() -> Span | Spanned | None:
    """What has the span that this code runs in: asking makes no deferred one. None outside of any."""
    return _current.get()


@contextmanager
def use(traceparent: object = None, tracestate: object = None) -> Iterator[Span]:
    """Let what this block publishes belong to the trace of a ``traceparent`` header.

    A header that is missing, or not as W3C has it, starts a new trace. Where an OpenTelemetry span is active, that is
    the span of this block, whatever the header is; else what OpenTelemetry does in this block goes into its trace.
    Gives the span of this block.
    """
    active, outer = opentelemetry_span(), current()
    if active is not None and outer is not None and active.span_id == outer.span_id:
        active = None  # that is what an outer block made of its own header
    span = active or child(read(traceparent, tracestate))
    with resume(span):
        yield span


@contextmanager
def resume(span: Span) -> Iterator[None]:
    """Let this block belong to a span that is there already."""
    token = _current.set(span)
    try:
        with _in_opentelemetry(span):
            yield
    finally:
        _current.reset(token)


def read(traceparent: object, tracestate: object = None) -> Span | None:
    """Read the W3C headers; None if ``traceparent`` is not valid. Never raises, whatever the headers are."""
    if not isinstance(traceparent, str) or len(traceparent) > MAX_TEXT:
        return None
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None or not found[1].strip("0") or not found[2].strip("0"):
        return None
    # What follows the flags is for later versions of the standard only.
    if len(traceparent) > _VERSION_0 and traceparent.startswith("00"):
        return None
    printable = isinstance(tracestate, str) and len(tracestate) <= MAX_STATE and tracestate.isprintable()
    return Span(found[1], found[2], flags=int(found[3], 16), tracestate=str(tracestate) if printable else "")


def bounded(lineage: Sequence[T]) -> Sequence[T]:
    """The root and the nearest of a lineage that is too long."""
    return lineage if len(lineage) <= MAX_LINEAGE else [lineage[0], *lineage[-(MAX_LINEAGE - 1) :]]


def ancestors(rows: object) -> tuple[Ancestor, ...]:
    """Read a lineage; what is not as :meth:`Ancestor.row` writes it is left out."""
    if not isinstance(rows, list):
        return ()
    return tuple(
        Ancestor(clean(row[0]), clean(row[1]), clean(row[2]), whole(row[3]), number(row[4]), number(row[5]))
        for row in bounded(rows)
        if isinstance(row, list) and len(row) == _ANCESTOR_FIELDS
    )


def child(parent: Span | None) -> Span:
    """A new span under this one, or the root of a new trace."""
    trace_id, span_id = new_ids()
    if parent is None:
        return Span(trace_id, span_id)
    return parent._replace(span_id=span_id, parent_span_id=parent.span_id)


def new_ids() -> tuple[str, str]:
    """A trace id and a span id; from the system, so that no task's ``random.seed()`` makes two alike."""
    digits = _digits()
    return digits[:32], digits[32:]


def new_root() -> str:
    """The ``traceparent`` of a new trace."""
    digits = _digits()
    return f"00-{digits[:32]}-{digits[32:]}-01"


class _Digits:
    """Random hexadecimal digits for ids, asked of the system for many at a time: each question is a system call."""

    AT_A_TIME: Final = 64

    def __init__(self) -> None:
        self._left: list[str] = []
        self._process = 0

    def __call__(self) -> str:
        process = os.getpid()
        if process != self._process:  # a forked process has those of its parent
            self._left, self._process = [], process
        try:
            return self._left.pop()
        except IndexError:
            digits = os.urandom(24 * self.AT_A_TIME).hex()
            self._left += [digits[start : start + 48] for start in range(48, len(digits), 48)]
            return digits[:48]


_digits: Final = _Digits()


def opentelemetry_span() -> Span | None:
    """The active OpenTelemetry span; None if there is none, or nobody has imported OpenTelemetry."""
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
    """The kind of the active OpenTelemetry span, as ``CONSUMER``; "" if there is none or it is not recorded."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    get: Any = getattr(trace, "get_current_span", None)
    return "" if get is None else str(getattr(getattr(get(), "kind", None), "name", ""))


@contextmanager
def _in_opentelemetry(span: Span) -> Iterator[None]:
    """Let what OpenTelemetry does in this block go into the span's trace, if anybody uses OpenTelemetry."""
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
    """The report as text, without the traceback: what happened, then the tasks that led here, the root first."""
    lines = [f"task {span.task_name}[{span.task_id}] failed for good in trace {span.trace_id}: {said(exc)}"]
    for depth, each in enumerate((*span.lineage, itself(span))):
        level = "" if each.level is None else f", P{each.level}"
        wait = "" if each.wait is None else f", waited {each.wait:.3f} s"
        ran = "" if each.ran is None else f", ran {each.ran:.3f} s"
        lines.append(f"  {'  ' * depth}{each.name}[{each.id}] on {each.host or 'an unknown worker'}{level}{wait}{ran}")
    return "\n".join(lines)


def report(exc: BaseException) -> str:
    """The report for Sentry and the like, with the traceback; of the running task, or of the one that ``exc`` ended."""
    told, span = getattr(exc, TOLD, None), current()
    if not isinstance(told, str):
        told = None if span is None else describe(span, exc)
    trace = "".join(traceback.format_exception(type(exc), exc, exc.__traceback__)).rstrip()
    return trace if told is None else f"{told}\n{trace}"


def said(exc: BaseException) -> str:
    """Type and text of an exception in one line that is safe in a log, whatever its class does."""
    try:
        text = " ".join(str(exc).split())[:MAX_SAID]
    except Exception:  # noqa: BLE001 - of the user's own __str__
        text = "<its text cannot be had>"
    return f"{type(exc).__name__}: {text if text.isprintable() else text.encode('unicode_escape').decode()[:MAX_SAID]}"


def itself(span: Span) -> Ancestor:
    """The task of this span as an ancestor of what it publishes now."""
    ran = None if span.started is None else max(time.time() - span.started, 0.0)
    return Ancestor(span.task_name, span.task_id, span.host, span.level, span.wait, ran)


def wrap(fn: Callable[P, T]) -> Callable[P, T]:
    """Let a function that another thread runs belong to the code that is running now.

    It gets a copy of the context variables, the trace with them, and Celery's current task, from which what it
    publishes takes key, weight and deadline. May be called any number of times, also at once.
    """
    context = copy_context()
    task = get_current_worker_task()
    request = None if task is None else task.request

    def with_task(*args: P.args, **kwargs: P.kwargs) -> T:
        if task is None:
            return fn(*args, **kwargs)
        # Celery keeps both by thread or greenlet, and they are looked up together.
        _task_stack.push(task)
        task.request_stack.push(request)
        try:
            return fn(*args, **kwargs)
        finally:
            task.request_stack.pop()
            _task_stack.pop()

    @functools.wraps(fn)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        # A context can be entered once at a time: each call has its own.
        return context.copy().run(with_task, *args, **kwargs)

    return run


class Executor(futures.Executor):
    """An executor of threads whose calls belong to the task that submits them; see :func:`wrap`.

    As ``Executor(ThreadPoolExecutor())``. Not for processes: a context cannot be sent to another one.
    """

    def __init__(self, executor: futures.Executor) -> None:
        self._executor = executor

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> futures.Future[T]:
        """Submit to the executor; ``map`` of the base class comes here too."""
        return self._executor.submit(wrap(fn), *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - as its base
        """Shut the executor down."""
        self._executor.shutdown(wait, cancel_futures=cancel_futures)
