"""Leader election: one reprioritizer a queue moves, and a stale one cannot.

A lease with a fencing token (Kleppmann, "How to do distributed locking", 2016): every change of hands makes a larger
token, and the broker compares it inside each script that moves, so a leader that slept through its time to live is
refused by the same server that holds the messages.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from celery_dynprio.brokers.redis.client import RedisClient

logger = logging.getLogger("celery_dynprio.lease")

#: A process that gave no sign of life for so many times the life of a lease loses its leases.
PATIENCE: Final = 6

#: Seconds that a lease lives unless it is renewed.
TTL: Final = 10.0

#: A dedicated process takes the lease over from a candidate in a worker, and an operator's command from both.
Kind: TypeAlias = Literal["embedded", "dedicated", "operator"]


@dataclass(frozen=True, slots=True)
class Holder:
    """Who leads a queue."""

    owner: str
    kind: str
    token: int


class Lease(Protocol):
    """The right to move the pending tasks of one queue."""

    def acquire(self) -> str | None:
        """Take or renew the lease; return the fence, or None if another owner has it."""

    def renew(self) -> None:
        """Lengthen it, if it is still ours; from any thread."""

    def release(self) -> None:
        """Give it back, if it is still ours."""

    def holder(self) -> Holder | None:
        """Who has it now."""


class RedisLease:
    """A lease that Redis keeps: a key with a time to live (``ttl``, seconds, by the server's clock)."""

    def __init__(self, client: RedisClient, queue: str, owner: str, kind: Kind = "dedicated", ttl: float = TTL) -> None:
        self.owner = owner
        self._redis = client.redis
        self._key = client.queue_key(queue, "lease")
        self._counter = client.queue_key(queue, "fence")
        self._arguments = (owner, kind, max(int(ttl * 1000), 1))
        self._acquire = client.script("lease_acquire")
        self._renew = client.script("lease_renew")
        self._release = client.script("lease_release")
        self._fence: str | None = None

    def acquire(self) -> str | None:
        """Take or renew the lease; return the fence, or None if another owner has it."""
        answer = self._acquire(keys=[self._key, self._counter], args=self._arguments)
        self._fence = answer.decode() if answer else None
        return self._fence

    def renew(self) -> None:
        """Lengthen it, if it is still ours; from any thread."""
        fence = self._fence
        if fence is not None:
            self._renew(keys=[self._key], args=[fence, self._arguments[-1]])

    def release(self) -> None:
        """Give it back, if it is still ours."""
        if self._fence is not None:
            self._release(keys=[self._key], args=[self._fence])
            self._fence = None

    def holder(self) -> Holder | None:
        """Who has it now; None if it is free."""
        value = self._redis.get(self._key)
        if not value:
            return None
        token, kind, owner = value.decode().split(":", 2)
        return Holder(owner, kind, int(token))


class Keeper:
    """Renews the leases of one process while it works, however long a step of that takes, from a thread of its own.

    ``ttl`` (seconds) is the life of a lease. A process that hangs loses its leases all the same: it has to give a sign
    of life (:meth:`beat`) at least every :data:`PATIENCE` times the life of a lease. ``clock`` gives seconds that never
    go back.
    """

    def __init__(self, ttl: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._period = ttl / 3
        self._patience = PATIENCE * ttl
        self._clock = clock
        self._leases: list[Lease] = []
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
            if lease not in self._leases:
                self._leases.append(lease)

    def drop(self, lease: Lease) -> None:
        """Renew it no more: it is given back, or lost."""
        with self._lock:
            if lease in self._leases:
                self._leases.remove(lease)

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
        for lease in leases:
            try:
                lease.renew()
            except Exception as exc:  # noqa: BLE001 - also what a connection raises that is closed meanwhile
                logger.debug("could not renew a lease: %s", exc)

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


def follows(fence: str | None, earlier: str | None) -> bool:
    """Whether nobody else led between these two fences of one owner."""
    tokens = [each.partition(":")[0] if each else "" for each in (earlier, fence)]
    return fence == earlier or (all(map(str.isdigit, tokens)) and int(tokens[1]) == int(tokens[0]) + 1)
