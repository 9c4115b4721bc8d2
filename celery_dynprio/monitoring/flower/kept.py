"""A value that is read anew in the background, so that nobody waits for long and nothing is read more than needed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Final, Generic, TypeVar

T = TypeVar("T")

#: A value is kept for so many times as long as it took to read: readings take a sixth of the time at most.
SPACING: Final = 5.0


class Kept(Generic[T]):
    """What ``read`` returned last; it is read anew once it is ``age`` seconds old, by one thread at a time.

    ``clock`` gives seconds that never go back.
    """

    def __init__(self, read: Callable[[], T], age: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._age = age
        self._clock = clock
        self._lock = threading.Lock()
        self._reading: tuple[float, Future[T]] | None = None
        self._value: T | None = None
        self._started = self._fresh_until = float("-inf")
        self._forgotten = float("-inf")

    def get(self, patience: float) -> T | None:
        """The value, if it is fresh within ``patience`` seconds, else the one before it; None if there is none.

        Raises what reading it raised.
        """
        end = self._clock() + patience
        while True:
            with self._lock:
                if self._clock() < self._fresh_until and self._started >= self._forgotten:
                    return self._value
                started, reading = self._reading or self._start()
            wait([reading], timeout=max(end - self._clock(), 0.0))
            if not reading.done():
                return self._value
            value = reading.result()
            if started >= self._forgotten:
                return value

    def forget(self) -> None:
        """Count what was read before now as old."""
        with self._lock:
            self._forgotten = self._clock()

    def _start(self) -> tuple[float, Future[T]]:
        self._reading = self._clock(), Future()
        threading.Thread(target=self._run, args=self._reading, name="dynprio read", daemon=True).start()
        return self._reading

    def _run(self, started: float, reading: Future[T]) -> None:
        try:
            value = self._read()
        except Exception as exc:  # noqa: BLE001 - whoever waits is told
            with self._lock:
                self._reading = None
            reading.set_exception(exc)
            return
        with self._lock:
            self._reading = None
            self._value, self._started = value, started
            now = self._clock()
            self._fresh_until = now + max(self._age, SPACING * (now - started))
        reading.set_result(value)
