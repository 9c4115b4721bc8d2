"""How the users of somebody else's workload become fairness keys, weights and deadlines.

Public workloads know users and groups, and mostly no importance. A *tier* makes one up: a share of the users, chosen by
a hash of their name, gets a weight and perhaps a deadline. The same user is always in the same tier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from celery_dynprio.durations import EXAMPLES, seconds
from celery_dynprio.errors import ArgumentError

_LARGEST_WEIGHT = 10.0


@dataclass(frozen=True, slots=True)
class Tier:
    """So much of the users, in (0, 1], with a weight (0 to 10) and a deadline (seconds; None for none)."""

    weight: float
    share: float
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Users:
    """What becomes of a user: in one of ``tiers`` (none: weight 1), with a key of its own, or one of ``keys`` keys."""

    tiers: Sequence[Tier] = ()
    keys: int | None = None

    def key(self, user: str) -> str:
        """The fairness key of a user."""
        return user if self.keys is None else f"key-{int(share_of('key', user) * self.keys)}"

    def tier(self, user: str) -> Tier | None:
        """The tier of a user; None if there are no tiers."""
        if not self.tiers:
            return None
        point = share_of("tier", user) * sum(tier.share for tier in self.tiers)
        for tier in self.tiers:
            point -= tier.share
            if point < 0:
                return tier
        return self.tiers[-1]


def share_of(purpose: str, name: str) -> float:
    """A number in [0, 1) that is always the same for the same name, and independent between purposes."""
    digest = blake2b(f"{purpose}:{name}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53  # as many bits as a float holds: never 1


def tiers(text: str) -> tuple[Tier, ...]:
    """Read tiers from ``weight:share[:deadline]``, separated by commas, as in ``9:0.1:30s,5:0.3,1:0.6``.

    Raises :class:`~celery_dynprio.errors.ArgumentError`.
    """
    return tuple(_tier(text, part) for part in text.split(","))


def _tier(text: str, part: str) -> Tier:
    fields = part.strip().split(":")
    deadline = seconds(fields[2]) if len(fields) == 3 else None  # noqa: PLR2004 - weight, share, deadline
    try:
        weight, share = map(float, fields[:2])
    except ValueError:
        weight, share = -1.0, -1.0
    if not 0 <= weight <= _LARGEST_WEIGHT or not 0 < share <= 1 or (len(fields) != 2 and deadline is None):  # noqa: PLR2004
        allowed = (
            f"{part!r} is not weight:share[:deadline], with a weight from 0 to 10, a share from 0 to 1, and {EXAMPLES}"
        )
        raise ArgumentError("tiers", text, allowed)
    return Tier(weight, share, deadline)
