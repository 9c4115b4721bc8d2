"""Carries what a worker's processes measure to where it is kept, from a thread of its own.

Nothing here touches the network on a task's path, and nothing that goes wrong here can fail or slow a task.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

from celery_dynprio.errors import UnsupportedBrokerError

logger = logging.getLogger(__name__)

#: Entries that wait to be sent; when a broker stays away, the oldest are dropped.
MAX_WAITING: Final = 10_000

#: Seconds between two sends of a process, how long its end may take for the last one, and between two complaints.
SEND_INTERVAL: Final = 1.0
LAST_SEND_TIMEOUT: Final = 3.0
COMPLAINT_INTERVAL: Final = 60.0

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class Store(Protocol[T_contra]):
    """Where entries are kept."""

    def add(self, entries: Sequence[T_contra], /) -> None:
        """Take in what was measured."""

    def close(self) -> None:
        """Give back what this holds of the broker."""


class Sender(Generic[T]):
    """Carries entries from the tasks of one process to their store.

    ``what`` names them in the log. ``open_store`` is called in the thread. Whatever goes wrong there, entries are
    dropped and counted in ``dropped``, and a line is logged once a minute. ``interval`` (seconds) is the least time
    between two sends.
    """

    def __init__(self, what: str, open_store: Callable[[], Store[T]], interval: float = SEND_INTERVAL) -> None:
        self.dropped = 0
        self._what = what
        self._open = open_store
        self._interval = interval
        self._store: Store[T] | None = None
        self._waiting: deque[T] = deque(maxlen=MAX_WAITING)
        self._something = threading.Event()
        self._stop = threading.Event()
        self._next_complaint = 0.0
        self._thread = threading.Thread(target=self._work, name=f"dynprio {what}", daemon=True)
        self._starting = threading.Lock()

    def put(self, entry: T) -> None:
        """Hand over an entry; never blocks on the network."""
        if len(self._waiting) >= MAX_WAITING:
            self.dropped += 1
        self._waiting.append(entry)
        if not self._something.is_set():
            self._something.set()
            self._start()

    def stop(self, timeout: float = LAST_SEND_TIMEOUT) -> None:
        """Send what waits, for at most ``timeout`` seconds, and end the thread."""
        self._stop.set()
        self._something.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _start(self) -> None:
        with self._starting:
            if self._thread.ident is None:
                try:
                    self._thread.start()
                except RuntimeError as exc:  # no more threads: tasks must not notice, the next entry tries again
                    self._something.clear()
                    self._complain(exc)

    def _work(self) -> None:
        while not self._stop.is_set():
            self._something.wait()
            self._something.clear()
            self._send()
            self._stop.wait(self._interval)
        self._send()
        if self._store is not None:
            self._store.close()

    def _send(self) -> None:
        entries = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if not entries:
            return
        try:
            if self._store is None:
                self._store = self._open()
            self._store.add(entries)
        except UnsupportedBrokerError:
            self.dropped += len(entries)  # said once at the start of the worker
        except Exception as exc:  # noqa: BLE001 - whatever it is, tasks must not notice
            self.dropped += len(entries)
            self._complain(exc)

    def _complain(self, problem: Exception) -> None:
        now = time.monotonic()
        if now >= self._next_complaint:
            self._next_complaint = now + COMPLAINT_INTERVAL
            logger.warning("%s could not be sent, %d dropped so far: %s", self._what, self.dropped, problem)


class Senders(Generic[T]):
    """One sender for each process that this one is forked into: threads, and what they held locked, survive no fork."""

    def __init__(self, what: str, open_store: Callable[[], Store[T]]) -> None:
        self._what = what
        self._open = open_store
        self._by_process: dict[int, Sender[T]] = {}

    def put(self, entry: T) -> None:
        """Hand over an entry to the sender of this process."""
        process = os.getpid()
        sender = self._by_process.get(process)
        if sender is None:
            sender = self._by_process.setdefault(process, Sender(self._what, self._open))
        sender.put(entry)

    def stop(self, **_: Any) -> None:
        """Receive ``worker_process_shutdown`` and ``worker_shutdown``: send what waits."""
        sender = self._by_process.pop(os.getpid(), None)
        if sender is not None:
            sender.stop()
