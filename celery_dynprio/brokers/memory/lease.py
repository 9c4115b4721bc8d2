"""A lease among the owners in one process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from celery_dynprio.ports.lease import TTL, Holder, Kind

_RANKS: Final = {"embedded": 0, "dedicated": 1, "operator": 2}


@dataclass(slots=True)
class MemoryLeases:
    """Who leads one queue, and until when: what all leases of that queue share."""

    #: Seconds; never goes back.
    clock: Callable[[], float] = time.monotonic
    token: int = 0
    held_by: Holder | None = None
    until: float = 0.0

    @property
    def holder(self) -> Holder | None:
        """Who has it now; None if it is free or has run out."""
        return self.held_by if self.clock() < self.until else None

    @property
    def fence(self) -> str | None:
        """The only fence that may move; None if nobody leads."""
        return None if self.holder is None else str(self.holder.token)


class MemoryLease:
    """One owner's lease: a more important kind takes it over from a lesser one. ``ttl`` is in seconds."""

    def __init__(self, leases: MemoryLeases, owner: str, kind: Kind = "dedicated", ttl: float = TTL) -> None:
        self.owner = owner
        self._leases = leases
        self._kind = kind
        self._ttl = ttl
        self._token: int | None = None

    def acquire(self) -> str | None:
        """Take or renew the lease; return the fence, or None if another owner has it."""
        leases, holder = self._leases, self._leases.holder
        self._token = None
        if holder is not None and holder.owner != self.owner and _RANKS[holder.kind] >= _RANKS[self._kind]:
            return None
        if holder is None or (holder.owner, holder.kind) != (self.owner, self._kind):
            leases.token += 1
            leases.held_by = Holder(self.owner, self._kind, leases.token)
        leases.until = leases.clock() + self._ttl
        self._token = leases.token
        return leases.fence

    def renew(self) -> None:
        """Lengthen it, if it is still ours."""
        if self._is_ours():
            self._leases.until = self._leases.clock() + self._ttl

    def release(self) -> None:
        """Give it back, if it is still ours."""
        if self._is_ours():
            self._leases.held_by = None
        self._token = None

    def holder(self) -> Holder | None:
        """Who has it now; None if it is free."""
        return self._leases.holder

    def _is_ours(self) -> bool:
        holder = self._leases.holder
        return holder is not None and holder.token == self._token
