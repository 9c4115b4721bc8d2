"""A feed in the memory of this process: see :class:`~celery_dynprio.ports.feed.Feed` for the methods."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from celery_dynprio.ports.feed import Batch

#: Batches that are kept; the oldest go first.
MAX_BATCHES: Final = 5_000


class MemoryFeeds:
    """What all feeds of one broker share; ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.asked_until = -math.inf
        #: The last batches, each with its number.
        self.batches: deque[tuple[int, Batch]] = deque(maxlen=MAX_BATCHES)
        self.count = 0


class MemoryFeed:
    """The feed of one worker process or one recorder."""

    def __init__(self, feeds: MemoryFeeds) -> None:
        self._feeds = feeds
        self._last: int | None = None

    def ask(self, seconds: float) -> None:
        """Ask all workers to tell, for so long from now on."""
        self._feeds.asked_until = self._feeds.clock() + seconds

    def asked(self) -> bool:
        """Whether a recorder asks now."""
        return self._feeds.clock() < self._feeds.asked_until

    def add(self, batch: Batch) -> None:
        """Tell all recorders."""
        self._feeds.count += 1
        self._feeds.batches.append((self._feeds.count, batch))

    def read(self) -> list[Batch]:
        """Return what was told since the last call; the first call returns nothing."""
        last, self._last = self._last, self._feeds.count
        return [] if last is None else [batch for number, batch in self._feeds.batches if number > last]

    def close(self) -> None:
        """Do nothing: there is no connection."""
