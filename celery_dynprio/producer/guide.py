"""What this process knows of the leaders' guidance. It is read in the background, only while the process publishes.

Publishing never waits for it: whoever publishes looks at what is known, and a thread reads it anew every few seconds.
The thread ends when nothing was published for a while. A process that publishes once starts none.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, Protocol

from celery_dynprio.complaints import Complaints
from celery_dynprio.ports.broker import Broker
from celery_dynprio.ports.guidance import STALE, Guidance

logger = logging.getLogger("celery_dynprio.guide")

#: Seconds between the first publish of a process and the first read, and between two reads.
FIRST_READ: Final = 1.0
READ_INTERVAL: Final = 3.0

#: Seconds without a publish after which reading stops.
IDLE: Final = 60.0


class Guide(Protocol):
    """Where placement looks for guidance."""

    def of(self, queue: str) -> Guidance | None:
        """Return what is known of this queue; called several times a second, so it takes no more than a look."""

    def wanted(self, queue: str) -> None:
        """Hear that something is published to this queue; called every few seconds at most."""


class NoGuide:
    """Nothing is known."""

    def of(self, queue: str) -> Guidance | None:  # noqa: ARG002 - see the class
        """Return None."""
        return None

    def wanted(self, queue: str) -> None:
        """Do nothing."""


class Known:
    """The guidance that was read last, and the queues that it is wanted of. ``clock`` never goes back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._read_at = clock()
        self._wanted: dict[str, float] = {}
        self._guidance: Mapping[str, Guidance] = {}

    def of(self, queue: str) -> Guidance | None:
        """Return what is known of this queue, unless it is stale."""
        guidance = self._guidance.get(queue)
        return None if guidance is None or self._clock() - self._read_at >= STALE else guidance

    def want(self, queue: str) -> None:
        """Remember that something is published to this queue now."""
        self._wanted[queue] = self._clock()

    def queues(self) -> list[str]:
        """Return the queues to which something was published within the last :data:`IDLE` seconds."""
        since = self._clock() - IDLE
        return [queue for queue, at in list(self._wanted.items()) if at >= since]

    def take(self, guidance: Mapping[str, Guidance]) -> None:
        """Replace what is known."""
        self._read_at, self._guidance = self._clock(), guidance


class Reader:
    """Reads guidance for one process, in a thread that ends by itself."""

    def __init__(self, connect: Callable[[], Broker], interval: float = READ_INTERVAL) -> None:
        self.known = Known()
        self._connect = connect
        self._interval = interval
        self._first = time.monotonic()
        self._stopped = threading.Event()
        self._starting = threading.Lock()
        self._running = False
        self._complain = Complaints(logger, "new tasks are placed as if nothing waited: %s", level=logging.DEBUG)

    def wanted(self, queue: str) -> None:
        """Read what is known of this queue from now on, if this process lives long enough to make use of it."""
        self.known.want(queue)
        if not self._running and time.monotonic() - self._first >= FIRST_READ:
            self._start()

    def stop(self) -> None:
        """Read no more."""
        self._stopped.set()

    def _start(self) -> None:
        with self._starting:
            if self._running or self._stopped.is_set():
                return
            thread = threading.Thread(target=self._work, name="dynprio guidance", daemon=True)
            with suppress(RuntimeError):  # no more threads: publishing goes on without
                thread.start()
                self._running = True

    def _work(self) -> None:
        broker: Broker | None = None
        while queues := self._next():
            try:
                if broker is None:
                    broker = self._connect()
                self.known.take(broker.stores.guidance().read(queues))
                broker.rest()  # a broker may allow few connections
            except Exception as exc:  # noqa: BLE001 - whatever it is, publishers must not notice
                self._complain(exc)
            self._stopped.wait(self._interval)
        if broker is not None:
            with suppress(Exception):
                broker.close()

    def _next(self) -> list[str]:
        """Return the queues to read of; none if this is to end."""
        with self._starting:
            queues = [] if self._stopped.is_set() else self.known.queues()
            self._running = bool(queues)
            if not queues:
                self.known.take({})
        return queues


class BackgroundGuide:
    """One reader for each process that this one is forked into: threads, and what they held locked, survive no fork."""

    def __init__(self, connect: Callable[[], Broker]) -> None:
        self._connect = connect
        self._reader: tuple[int, Reader] | None = None

    def of(self, queue: str) -> Guidance | None:
        """Return what is known of this queue."""
        reader = self._reader
        return None if reader is None else reader[1].known.of(queue)

    def wanted(self, queue: str) -> None:
        """Hear that something is published to this queue."""
        process, reader = os.getpid(), self._reader
        if reader is None or reader[0] != process:
            reader = self._reader = process, Reader(self._connect)
        reader[1].wanted(queue)

    def stop(self) -> None:
        """Read no more."""
        reader = self._reader
        if reader is not None and reader[0] == os.getpid():
            reader[1].stop()
        self._reader = None
