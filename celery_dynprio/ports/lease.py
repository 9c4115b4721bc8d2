"""Leader election: one reprioritizer a queue moves, and a stale one cannot."""

from __future__ import annotations

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
