"""The trace that a task belongs to, in the code that it runs and in the tasks that it publishes.

A published task continues the trace of the task that publishes it, of an OpenTelemetry span, or of :func:`use` in web
code. Otherwise a new trace begins. The ids are those of W3C Trace Context (https://www.w3.org/TR/trace-context/).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from celery_dynprio.tracing.ids import new_ids
from celery_dynprio.tracing.opentelemetry import active_span, joined
from celery_dynprio.tracing.span import Span, read


class Deferred:
    """A span that ``make`` makes of this object when somebody first asks, which is rare. As a block, it is current.

    To make one takes 14 to 23 microseconds, to defer it 1.
    """

    __slots__ = ("_make", "_span", "_token")

    def __init__(self, make: Callable[[Any], Span]) -> None:
        self._make = make
        self._span: Span | None = None

    def __enter__(self) -> None:
        self._token = _current.set(self)

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)

    def span(self) -> Span:
        """Return the span, which is made once."""
        if self._span is None:
            self._span = self._make(self)
        return self._span


#: What this code runs in.
_current: ContextVar[Span | Deferred | None] = ContextVar("dynprio_span", default=None)


def current() -> Span | None:
    """Return the span that this code runs in; None outside of any."""
    found = _current.get()
    return found if found is None or isinstance(found, Span) else found.span()


#: Return the span that this code runs in, or what would make it, without making it. None outside of any. Not a function
#: in Python, since each publish asks a few times.
current_or_deferred: Final[Callable[[], Span | Deferred | None]] = _current.get


def enter(span: Span | Deferred | None) -> None:
    """Let the code of this thread run in this span from now on; None leaves any."""
    _current.set(span)


@contextmanager
def use(traceparent: object = None, tracestate: object = None) -> Iterator[Span]:
    """Let tasks that are published in this block belong to the trace of a ``traceparent`` header.

    Without a header, or with one that W3C does not allow, a new trace begins. If an OpenTelemetry span is active, it is
    the span of this block, whatever the header is. Otherwise, OpenTelemetry spans in this block join the block's trace.
    The context manager gives the span of this block.
    """
    active, outer = active_span(), current()
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
        with joined(span):
            yield
    finally:
        _current.reset(token)


def child(parent: Span | None) -> Span:
    """Return a new span under this one, or the root of a new trace."""
    trace_id, span_id = new_ids()
    if parent is None:
        return Span(trace_id, span_id)
    return parent._replace(span_id=span_id, parent_span_id=parent.span_id)
