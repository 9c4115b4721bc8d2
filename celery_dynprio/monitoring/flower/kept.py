"""A value that is refreshed in the background, so that nobody waits for long and nothing is read more than needed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from typing import Final, Generic, TypeVar

T = TypeVar("T")

#: A value is kept for this many times as long as reading it took, so that reads take a sixth of the time at most.
SPACING: Final = 5.0


class Kept(Generic[T]):
    """The last result of ``read``, which is called again, in one of the ``threads``, once it is ``age`` seconds old.

    ``clock`` gives seconds that never go back.
    """

    def __init__(
        self, read: Callable[[], T], age: float, threads: Executor, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read = read
        self._age = age
        self._threads = threads
        self._clock = clock
        self._lock = threading.Lock()
        self._reading: Future[tuple[float, T]] | None = None
        self._value: T | None = None
        self._started = self._fresh_until = self._forgotten = float("-inf")

    def get(self, patience: float, haste: float | None = None) -> T | None:
        """Wait up to ``patience`` seconds for a fresh value; then return the previous one, or None if there is none.

        If there is a previous one that was not forgotten, wait only ``haste`` seconds. Raises the errors of ``read``.
        """
        began = self._clock()
        while True:
            with self._lock:
                usable = self._started >= self._forgotten and self._value is not None
                if usable and self._clock() < self._fresh_until:
                    return self._value
                if self._reading is None:
                    self._reading = self._threads.submit(self._run)
                reading = self._reading
            allowed = haste if usable and haste is not None else patience
            wait([reading], timeout=max(began + allowed - self._clock(), 0.0))
            if not reading.done():
                return self._value
            started, value = reading.result()
            if started >= self._forgotten:
                return value

    def forget(self) -> None:
        """Treat everything that was read before now as old."""
        with self._lock:
            self._forgotten = self._clock()

    def _run(self) -> tuple[float, T]:
        started = self._clock()
        try:
            value = self._read()
        except BaseException:
            with self._lock:
                self._reading = None
            raise
        with self._lock:
            self._reading = None
            self._value, self._started = value, started
            now = self._clock()
            self._fresh_until = now + max(self._age, SPACING * (now - started))
        return started, value
