"""Reads for ``dynprio top`` what its screen shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from celery_dynprio.cli.top.state import Figures, View, queue_of
from celery_dynprio.operators.operations import Operations
from celery_dynprio.operators.results import QueueStats
from celery_dynprio.operators.selection import Filter
from celery_dynprio.operators.workers import Workers

#: Tasks that are read at a time: more than the tallest terminal has lines.
MOST: Final = 200

#: Seconds between two questions to the workers, and between two looks at the longest waits of a deep front.
RARELY: Final = 5.0

#: Up to so many tasks the whole front, which the longest waits take, is read each time: it costs milliseconds.
SHALLOW: Final = 1_000


class Reader:
    """Reads what the screen shows over one connection, as cheaply as it can; ``patience`` is that of the policy."""

    def __init__(
        self, operations: Operations, patience: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._operations = operations
        self._patience = patience
        self._clock = clock
        self._workers: Workers | None = None
        self._oldest: dict[str, Sequence[float | None]] = {}
        self._next = 0.0
        self._front = 0
        #: When the moves of each queue were counted last, and how many.
        self._counted: dict[str, tuple[float, int]] = {}

    def read(self, view: View) -> Figures:
        """Read it now."""
        now = self._clock()
        rarely = now >= self._next
        whole = rarely or self._front <= SHALLOW
        stats = self._operations.stats(None if rarely else self._workers or Workers(), oldest=whole)
        if rarely:
            self._next = now + RARELY
            self._workers = stats.workers
        if whole:
            self._oldest = {queue.queue: queue.oldest for queue in stats.queues}
        self._front = sum(sum(queue.depths) for queue in stats.queues)
        stats = replace(stats, queues=[replace(queue, oldest=self._waits(queue)) for queue in stats.queues])
        text = view.text if not view.text or set("*?[") & set(view.text) else f"*{view.text}*"
        wanted = Filter(task=text or None, queue=view.queue, held=True if view.held else None)
        listing = self._operations.pending(wanted, MOST, stats.workers)
        figures = Figures(stats, listing, patience=self._patience)
        return replace(figures, rate=self._rate(view.queue, now, queue_of(view, figures).moves))

    def _waits(self, queue: QueueStats) -> Sequence[float | None]:
        """The longest waits that were read last; none where nothing is left by now."""
        figures = self._oldest[queue.queue]
        return [wait if depth else None for depth, wait in zip(queue.depths, figures, strict=True)]

    def _rate(self, queue: str, now: float, moves: int) -> float | None:
        before = self._counted.get(queue)
        self._counted[queue] = now, moves
        return None if before is None or now <= before[0] else max(moves - before[1], 0) / (now - before[0])
