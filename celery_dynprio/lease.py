"""Leader election: one reprioritizer a queue moves, and a stale one cannot.

A lease with a fencing token (Kleppmann, "How to do distributed locking", 2016): every change of hands makes a larger
token, and the broker compares it inside each script that moves, so a leader that slept through its time to live is
refused by the same server that holds the messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from celery_dynprio.backlogs.redis_client import RedisClient

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

    def release(self) -> None:
        """Give it back, if it is still ours."""

    def holder(self) -> Holder | None:
        """Who has it now."""


class RedisLease:
    """A lease that Redis keeps: a key with a time to live (``ttl``, seconds, by the server's clock)."""

    def __init__(
        self, client: RedisClient, queue: str, owner: str, kind: Kind = "dedicated", ttl: float = 10.0
    ) -> None:
        self.owner = owner
        self._redis = client.redis
        self._key = client.queue_key(queue, "lease")
        self._counter = client.queue_key(queue, "fence")
        self._arguments = (owner, kind, max(int(ttl * 1000), 1))
        self._acquire = client.script("lease_acquire")
        self._release = client.script("lease_release")
        self._fence: str | None = None

    def acquire(self) -> str | None:
        """Take or renew the lease; return the fence, or None if another owner has it."""
        answer = self._acquire(keys=[self._key, self._counter], args=self._arguments)
        self._fence = answer.decode() if answer else None
        return self._fence

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
