"""A span: one run of a task, or a block of web code, with the tasks that led to it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

from celery_dynprio.untrusted import MAX_TEXT, clean, number, whole

#: Message headers: the two of W3C, and ours with the lineage.
TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
LINEAGE: Final = "dynprio_lineage"

#: The longest lineage in a message, in ancestors; of a longer one the root and the nearest are kept.
MAX_LINEAGE: Final = 16

#: The longest ``tracestate`` that is passed on (characters): the least that W3C requires.
MAX_STATE: Final = 512

T = TypeVar("T")

_ANCESTOR_FIELDS: Final = 6

#: The length of a ``traceparent`` of version 00.
_VERSION_0: Final = 55

#: What the standard says is no id.
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16

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

    def as_ancestor(self, now: float) -> Ancestor:
        """Return its task as an ancestor of a task that it publishes ``now`` (Unix seconds)."""
        ran = None if self.started is None else max(now - self.started, 0.0)
        return Ancestor(self.task_name, self.task_id, self.host, self.level, self.wait, ran)


def ids(traceparent: object) -> tuple[str, str, str] | None:
    """Read trace id, span id and flags (2 digits); None if the header is invalid. Never raises, whatever it is."""
    if not isinstance(traceparent, str) or len(traceparent) > MAX_TEXT:
        return None
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None:
        return None
    trace_id, span_id, flags = found.groups()
    if trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    # Only later versions of the standard allow anything behind the flags.
    if len(traceparent) > _VERSION_0 and traceparent.startswith("00"):
        return None
    return trace_id, span_id, flags


def read(traceparent: object, tracestate: object = None) -> Span | None:
    """Read the W3C headers; None if ``traceparent`` is invalid. Never raises, whatever the headers are."""
    known = ids(traceparent)
    if known is None:
        return None
    trace_id, span_id, flags = known
    return Span(trace_id, span_id, flags=int(flags, 16), tracestate=state_of(tracestate))


def state_of(tracestate: object) -> str:
    """Read the other header; "" if it is invalid."""
    if not isinstance(tracestate, str) or len(tracestate) > MAX_STATE:
        return ""
    return tracestate if tracestate.isprintable() else ""


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
