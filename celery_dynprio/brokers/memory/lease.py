"""A lease among the owners in one process."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from celery_dynprio.ports.lease import TTL, Holder, Kind, Lease

_RANKS: Final = {"embedded": 0, "dedicated": 1, "operator": 2}


@dataclass(slots=True)
class MemoryLeader:
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

    def __init__(self, leases: MemoryLeader, owner: str, kind: Kind = "dedicated", ttl: float = TTL) -> None:
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


class MemoryLeases:
    """The leases of one owner on many queues; ``sharing`` has who shares the same queues out, and until when."""

    def __init__(
        self, leases: Mapping[str, MemoryLease], owner: str, kind: Kind, ttl: float, sharing: dict[str, float]
    ) -> None:
        self._leases = leases
        self._me = f"{kind}:{owner}"
        self._ttl = ttl
        self._sharing = sharing

    def of(self, queue: str) -> MemoryLease:
        """Return the lease of one of the queues."""
        return self._leases[queue]

    def holders(self) -> dict[str, Holder]:
        """Return who leads each of the queues."""
        found = {queue: lease.holder() for queue, lease in self._leases.items()}
        return {queue: holder for queue, holder in found.items() if holder is not None}

    def acquire(self, queues: Collection[str]) -> dict[str, str | None]:
        """Take or renew the leases of some queues."""
        return {queue: self._leases[queue].acquire() for queue in queues}

    def renew(self, leases: Iterable[Lease]) -> None:
        """Lengthen those of these leases that are still ours."""
        for lease in leases:
            lease.renew()

    def meet(self) -> dict[str, int]:
        """Say that this process shares the queues out, and return how many do."""
        now = time.monotonic()
        self._sharing[self._me] = now + self._ttl
        return Counter(name.partition(":")[0] for name, until in self._sharing.items() if until >= now)

    def leave(self) -> None:
        """Say that it does so no more."""
        self._sharing.pop(self._me, None)
