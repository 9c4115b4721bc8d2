"""Tells recorders of the tasks that end in this process, while one of them asks for it.

It is one more outlet of the sender's thread, because that has the reports of all runs at hand, the key, weight and
deadline of each included, and no task waits for it. The trace store has none of these three, and drops what finds no
room. Whether anybody asks is looked up once in :data:`LOOK_INTERVAL`: that is all that recording costs where it is off.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final
from uuid import uuid4

from celery_dynprio import message
from celery_dynprio.chunks import chunks
from celery_dynprio.ports.feed import Batch, Ended, Feed
from celery_dynprio.tracing.runs import RunReport, level_at_publish
from celery_dynprio.tracing.span import Span
from celery_dynprio.untrusted import number, text_of, unix_seconds
from celery_dynprio.worker.entries import EndReport, Report

#: Seconds between two looks whether a recorder asks.
LOOK_INTERVAL: Final = 2.0

#: Tries in one batch.
CHUNK: Final = 100


class Feeding:
    """Takes reports, and passes on those of tries that ended.

    Of tasks without our header, only those from ``queues`` count. ``overflowed`` returns how many entries the process
    dropped before they became reports. ``clock`` gives seconds that never go back.
    """

    def __init__(
        self,
        feed: Feed,
        queues: Collection[str],
        overflowed: Callable[[], int] = lambda: 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._feed = feed
        self._queues = frozenset(queues)
        self._overflowed = overflowed
        self._clock = clock
        self._sender = uuid4().hex
        self._total = 0
        self._asked, self._next_look = False, -math.inf

    def add(self, reports: Sequence[Report], /) -> None:
        """Tell of what ended, if anybody asks."""
        if not self._is_asked():
            return
        ended = [row for report in reports if (row := ended_of(report, self._queues)) is not None]
        total = self._total + self._overflowed()
        self._total += len(ended)  # those that do not get through count, too
        for chunk in chunks(ended, CHUNK):
            total += len(chunk)
            self._feed.add(Batch(self._sender, total, chunk))

    def close(self) -> None:
        """Close the feed."""
        self._feed.close()

    def _is_asked(self) -> bool:
        now = self._clock()
        if now >= self._next_look:
            self._asked = self._feed.asked()
            self._next_look = now + LOOK_INTERVAL
        return self._asked


def ended_of(report: Report, queues: Collection[str]) -> Ended | None:
    """Return what recorders are told of a report; None if its task has not ended, or is none of theirs."""
    if isinstance(report, RunReport):
        if report.ran is None:
            return None
        return _ended(report.state, report.run.span(), report.run.headers, report.ran, queues)
    if isinstance(report, EndReport):
        return _ended(report.state, report.span, report.headers, report.ran or 0.0, queues)
    return None


def _ended(state: str, span: Span, headers: Mapping[str, Any], ran: float, queues: Collection[str]) -> Ended | None:
    fields = headers.get(message.HEADER)
    if not isinstance(fields, dict):
        if span.queue not in queues:
            return None
        fields = {}
    task = message.from_header(span.task_id, span.task_name, fields, 0.0, message.MAX_LEVELS)
    return Ended(
        span.task_id,
        span.task_name,
        span.queue,
        span.host,
        os.getpid(),
        state,
        span.attempt,
        number(fields.get("at")),
        span.started,
        unix_seconds(headers.get("eta")),
        ran,
        text_of(fields.get("key"), message.MAX_KEY) or None,
        task.weight,
        task.deadline,
        task.dependents,
        task.pinned,
        level_at_publish(headers, span.level),
        span.level,
    )
