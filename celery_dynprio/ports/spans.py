"""The trace store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from celery_dynprio.tracing.records import LoneRun, SpanRecord, Trace

#: Why a record was dropped: its trace was full, or a worker had no answer.
CAUSES: Final = ("no_room", "not_sent")


class Spans(Protocol):
    """A store of spans. It may be bounded: what finds no room is counted in ``dropped``."""

    #: Records for which there was no room, and all records that the store has answered for, in this process.
    dropped: int
    taken: int

    def add(self, records: Sequence[SpanRecord], lone: Sequence[LoneRun] = ()) -> None:
        """Store these records, and these runs, which a store may keep for less."""

    def read(self, trace_or_task_id: str) -> Trace | None:
        """Return the trace with this id, or the newest one with a task of this id; None if there is none."""

    def ids_with(self, start: str) -> set[str]:
        """Return the ids of traces and of tasks that begin with this text."""

    def add_dropped(self, totals: Mapping[str, int]) -> None:
        """Add by how much the totals of this process, by cause, have grown since they were last added.

        What is added without an answer is added again, and may count twice.
        """

    def dropped_counts(self) -> Mapping[str, int]:
        """Return how many records all processes dropped, for each of :data:`CAUSES`."""

    def close(self) -> None:
        """Close the connection that the store was given."""
