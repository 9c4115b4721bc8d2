"""Leader election: one reprioritizer a queue moves, and a stale one cannot."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias

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


class Leases(Protocol):
    """The leases of one process on many queues, in few round trips however many these are."""

    def of(self, queue: str) -> Lease:
        """Return the lease of one of the queues, the same at each call."""

    def holders(self) -> Mapping[str, Holder]:
        """Return who leads each of the queues; those that nobody leads are left out."""

    def acquire(self, queues: Collection[str]) -> Mapping[str, str | None]:
        """Take or renew the leases of some queues: what :meth:`Lease.acquire` returns, by queue."""

    def renew(self, leases: Iterable[Lease]) -> None:
        """Lengthen those of these leases that are still ours; from any thread."""

    def meet(self) -> Mapping[str, int]:
        """Say that this process shares the queues out with all that say so, and return how many these are, by kind.

        Who has the same queues counts, this process included, for as long as a lease lives.
        """

    def leave(self) -> None:
        """Say that it does so no more."""
