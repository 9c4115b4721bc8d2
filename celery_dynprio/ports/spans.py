"""The trace store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from celery_dynprio.tracing.records import SpanRecord, Trace


class Spans(Protocol):
    """A store of spans. It may be bounded: what finds no room is counted in ``dropped``."""

    #: Records for which there was no room, and all records that the store has answered for, in this process.
    dropped: int
    taken: int

    def add(self, records: Sequence[SpanRecord], /) -> None:
        """Store these records."""

    def read(self, trace_or_task_id: str) -> Trace | None:
        """Return the trace with this id, or the newest one with a task of this id; None if there is none."""

    def ids_with(self, start: str) -> set[str]:
        """Return the ids of traces and of tasks that begin with this text."""

    def close(self) -> None:
        """Close the connection that the store was given."""
