"""Keeps the leases of one process alive while it works, from a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Final

from celery_dynprio.ports.lease import Lease

logger = logging.getLogger("celery_dynprio.lease")

#: A process that gave no sign of life for so many times the life of a lease loses its leases.
PATIENCE: Final = 6


class Keeper:
    """Renews the leases of one process while it works, however long a step of that takes, from a thread of its own.

    ``ttl`` (seconds) is the life of a lease. A process that hangs loses its leases all the same: it has to give a sign
    of life (:meth:`beat`) at least every :data:`PATIENCE` times the life of a lease. ``renew`` renews some leases, one
    by one unless it is given. ``clock`` gives seconds that never go back.
    """

    def __init__(
        self,
        ttl: float,
        clock: Callable[[], float] = time.monotonic,
        renew: Callable[[Sequence[Lease]], object] | None = None,
    ) -> None:
        self._renew = renew or _one_by_one
        self._period = ttl / 3
        self._patience = PATIENCE * ttl
        self._clock = clock
        self._leases: dict[Lease, None] = {}
        self._lock = threading.Lock()
        self._workers = 0
        self._thread: threading.Thread | None = None
        self._beats = count()
        self._until = 0.0
        #: Gives a sign of life. Called for each task that is scored, so it takes no more than this.
        self.beat: Callable[[], object] = self._beats.__next__

    def hold(self, lease: Lease) -> None:
        """Renew this lease from now on."""
        with self._lock:
            self._leases[lease] = None

    def drop(self, lease: Lease) -> None:
        """Renew it no more: it is given back, or lost."""
        with self._lock:
            self._leases.pop(lease, None)

    def rest(self, seconds: float) -> None:
        """Expect no sign of life for so long."""
        self._until = self._clock() + seconds

    @contextmanager
    def working(self) -> Iterator[None]:
        """Renew while the body runs."""
        with self._lock:
            self._workers += 1
            self.beat()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="dynprio lease", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._workers -= 1

    def renew(self) -> None:
        """Renew all leases now; what goes wrong is tried again soon enough."""
        with self._lock:
            leases = list(self._leases)
        try:
            self._renew(leases)
        except Exception as exc:  # noqa: BLE001 - also what a connection raises that is closed meanwhile
            logger.debug("could not renew the leases: %s", exc)

    def _work(self) -> None:
        seen, since = -1, 0.0  # what the last look counted itself, and when others last did
        while True:
            time.sleep(self._period)
            with self._lock:
                if not self._workers:
                    self._thread = None
                    return
            now, beats = self._clock(), next(self._beats)
            if beats != seen + 1:
                since = now
            seen = beats
            if now <= max(since, self._until) + self._patience:
                self.renew()


def _one_by_one(leases: Sequence[Lease]) -> None:
    for lease in leases:
        lease.renew()


def follows(fence: str | None, earlier: str | None) -> bool:
    """Whether nobody else led between these two fences of one owner."""
    tokens = [each.partition(":")[0] if each else "" for each in (earlier, fence)]
    return fence == earlier or (all(map(str.isdigit, tokens)) and int(tokens[1]) == int(tokens[0]) + 1)
