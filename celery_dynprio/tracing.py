"""Which request caused what: the trace that a task belongs to, in the code that it runs and in what it publishes.

A trace goes on from the task that publishes, from an OpenTelemetry span, or from :func:`use` in web code; else it starts.
The ids are those of W3C Trace Context (https://www.w3.org/TR/trace-context/).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Final

#: Message headers: the two of W3C, and ours with the lineage.
TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
LINEAGE: Final = "dynprio_lineage"

#: The longest lineage that travels (ancestors, the root and the nearest are kept), and the longest text in it (characters).
MAX_LINEAGE: Final = 16
MAX_TEXT: Final = 200

#: The longest ``tracestate`` that is passed on (characters), as W3C asks for at least.
MAX_STATE: Final = 512

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


@dataclass(frozen=True, slots=True)
class Span:
    """One run of a task, or what web code declared with :func:`use`."""

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
    lineage: tuple[Ancestor, ...] = field(default=())

    @property
    def traceparent(self) -> str:
        """The W3C header that names this span."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"


_current: ContextVar[Span | None] = ContextVar("dynprio_span", default=None)


def current() -> Span | None:
    """The span that this code runs in; None outside of any."""
    return _current.get()


@contextmanager
def use(traceparent: object = None, tracestate: object = None) -> Iterator[Span]:
    """Let what this block publishes belong to the trace of a ``traceparent`` header.

    A header that is missing, or not as W3C has it, starts a new trace. Gives the span of this block.
    """
    span = child(read(traceparent, tracestate))
    token = _current.set(span)
    try:
        yield span
    finally:
        _current.reset(token)


def read(traceparent: object, tracestate: object = None) -> Span | None:
    """Read the W3C headers; None if ``traceparent`` is not valid. Never raises, whatever the headers are."""
    if not isinstance(traceparent, str) or len(traceparent) > MAX_TEXT:
        return None
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None or not found[1].strip("0") or not found[2].strip("0"):
        return None
    printable = isinstance(tracestate, str) and len(tracestate) <= MAX_STATE and tracestate.isprintable()
    return Span(found[1], found[2], flags=int(found[3], 16), tracestate=str(tracestate) if printable else "")


def child(parent: Span | None) -> Span:
    """A new span under this one, or the root of a new trace."""
    span_id = secrets.token_hex(8)
    if parent is None:
        return Span(secrets.token_hex(16), span_id)
    return replace(parent, span_id=span_id, parent_span_id=parent.span_id)
