"""Sends what the processes of a worker measure to its store, in a thread of its own.

A task never waits for the network here, and no failure here can fail or slow down a task.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Generic, Protocol, TypeVar

from celery_dynprio.complaints import Complaints
from celery_dynprio.errors import UnsupportedBrokerError

logger = logging.getLogger("celery_dynprio.sender")

#: Entries that wait to be sent; when a broker stays away, the oldest are dropped.
MAX_WAITING: Final = 10_000

#: Seconds between two sends of a process, and for the last send when it ends.
SEND_INTERVAL: Final = 1.0
LAST_SEND_TIMEOUT: Final = 3.0

#: Seconds without anything to send until what is connected is closed: a broker may allow few connections.
IDLE_TIMEOUT: Final = 1.0

#: Seconds until another reminder, if one failed.
RETRY: Final = 5.0

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class Store(Protocol[T_contra]):
    """A store of entries."""

    def add(self, entries: Sequence[T_contra], /) -> None:
        """Store these entries."""

    def close(self) -> None:
        """Close the connection to the broker."""


class Outlet(Generic[T]):
    """A store that is opened when it is first needed; it never raises.

    ``what`` names the entries in the log. Entries that could not be stored are counted in ``dropped``, and a line is
    logged once a minute.
    """

    def __init__(self, what: str, open_store: Callable[[], Store[T]]) -> None:
        self.dropped = 0
        self._what = what
        self._open = open_store
        self._store: Store[T] | None = None
        self._complain = Complaints(logger, "%s could not be sent, %d dropped so far: %s", level=logging.WARNING)

    def add(self, entries: Sequence[T], /) -> None:
        """Store these entries."""
        try:
            if self._store is None:
                self._store = self._open()
            self._store.add(entries)
        except UnsupportedBrokerError:
            self.dropped += len(entries)  # the worker warned of it when it started
        except Exception as exc:  # noqa: BLE001 - whatever it is, tasks must not notice
            self.dropped += len(entries)
            self.complain(exc)

    def complain(self, problem: Exception) -> None:
        """Log that something could not be sent, unless that was logged within the last minute."""
        self._complain(self._what, self.dropped, problem)

    def close(self) -> None:
        """Close the store, if it was opened."""
        if self._store is not None:
            self._store.close()


class Sender(Generic[T]):
    """Carries entries from the tasks of one process to their store, an :class:`Outlet` of these parameters.

    ``open_store`` is called in the thread. ``interval`` (seconds) is the least time between two sends. After ``idle``
    seconds with nothing to send ``rest`` is called, to close what is connected. When a broker stays away the oldest
    entries are dropped: counted in ``dropped``, and given to ``lost``.
    """

    def __init__(
        self,
        what: str,
        open_store: Callable[[], Store[T]],
        interval: float = SEND_INTERVAL,
        lost: Callable[[T], object] = lambda _: None,
        idle: float = IDLE_TIMEOUT,
    ) -> None:
        #: For whoever opens the store to set. ``remind`` does what is due while there is nothing to send, and returns
        #: after how many seconds it is to be called again, None for never.
        self.rest: Callable[[], object] = lambda: None
        self.remind: Callable[[], float | None] = lambda: None
        self._outlet = Outlet(what, open_store)
        self._interval = interval
        self._idle = idle
        self._lost = lost
        self._waiting: deque[T] = deque()
        self._something = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"dynprio {what}", daemon=True)
        self._starting = threading.Lock()

    @property
    def dropped(self) -> int:
        """Entries that were never sent."""
        return self._outlet.dropped

    def put(self, entry: T) -> None:
        """Hand over an entry; never blocks on the network."""
        if len(self._waiting) >= MAX_WAITING:
            self._overflow()
        self._waiting.append(entry)
        if not self._something.is_set():
            self._something.set()
            self._start()

    def stop(self, timeout: float | None = None) -> None:
        """Send what waits, for at most ``timeout`` seconds (None: LAST_SEND_TIMEOUT), and end the thread."""
        self._stop.set()
        self._something.set()
        if self._thread.is_alive():
            self._thread.join(LAST_SEND_TIMEOUT if timeout is None else timeout)

    def _overflow(self) -> None:
        with suppress(IndexError):  # the thread may have taken all of them just now
            oldest = self._waiting.popleft()
            self._outlet.dropped += 1
            self._lost(oldest)

    def _start(self) -> None:
        with self._starting:
            if self._thread.ident is None:
                try:
                    self._thread.start()
                except RuntimeError as exc:  # no more threads: tasks must not notice, the next entry tries again
                    self._something.clear()
                    self._outlet.complain(exc)

    def _work(self) -> None:
        while not self._stop.is_set():
            if not self._something.wait(self._idle):
                self._rest()
                while not self._something.wait(self._remind()):
                    pass
            self._something.clear()
            self._send()
            self._stop.wait(self._interval)
        self._send()
        self._outlet.close()

    def _rest(self) -> None:
        with suppress(Exception):  # whatever it is, the next send finds out
            self.rest()

    def _remind(self) -> float | None:
        try:
            return self.remind()
        except Exception as exc:  # noqa: BLE001 - as in the outlets: tasks must not notice
            self._outlet.complain(exc)
            return RETRY

    def _send(self) -> None:
        entries: list[T] = []
        with suppress(IndexError):  # a task may be dropping the oldest just now
            for _ in range(len(self._waiting)):
                entries.append(self._waiting.popleft())  # noqa: PERF401 - what was taken is kept
        if entries:
            self._outlet.add(entries)


class Senders(Generic[T]):
    """One sender for each process that this one is forked into: threads, and what they held locked, survive no fork.

    ``open_store`` is given the sender.
    """

    def __init__(
        self, what: str, open_store: Callable[[Sender[T]], Store[T]], lost: Callable[[T], object] = lambda _: None
    ) -> None:
        self._what = what
        self._open = open_store
        self._lost = lost
        self._by_process: dict[int, Sender[T]] = {}

    def put(self, entry: T) -> None:
        """Hand over an entry to the sender of this process."""
        process = os.getpid()
        sender = self._by_process.get(process)
        if sender is None:
            sender = self._by_process.setdefault(process, self._make())
        sender.put(entry)

    def _make(self) -> Sender[T]:
        sender: Sender[T] = Sender(self._what, lambda: self._open(sender), lost=self._lost)
        return sender

    def stop(self, **_: Any) -> None:
        """Receive ``worker_process_shutdown`` and ``worker_shutdown``: send what waits."""
        sender = self._by_process.pop(os.getpid(), None)
        if sender is not None:
            sender.stop()
