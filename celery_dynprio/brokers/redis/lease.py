"""Leader election: one reprioritizer a queue moves, and a stale one cannot.

A lease with a fencing token (Kleppmann, "How to do distributed locking", 2016): every change of hands makes a larger
token, and the broker compares it inside each script that moves, so a leader that slept through its time to live is
refused by the same server that holds the messages.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Final

from celery_dynprio.ports.lease import TTL, Holder, Kind

if TYPE_CHECKING:
    from celery_dynprio.brokers.redis.client import RedisClient

logger = logging.getLogger("celery_dynprio.lease")

#: "<token>:<kind>:<owner>", as ``lua/lease_acquire.lua`` writes it.
_FENCE: Final = re.compile(r"(\d{1,19}):([a-z]+):(.*)", re.ASCII | re.DOTALL)


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
        value = self._redis.mget(self._key)[0]  # None as well if the key holds no text
        found = _FENCE.fullmatch(value.decode(errors="replace")) if value else None
        return Holder(found[3], found[2], int(found[1])) if found else None
