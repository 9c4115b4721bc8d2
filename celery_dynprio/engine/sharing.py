"""Shares the queues out over the reprioritizers that run: each leads its part of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final
from zlib import crc32

from celery_dynprio.engine.tick import Reprioritizer
from celery_dynprio.models import Report, Role
from celery_dynprio.ports.lease import Holder, Kind, Leases

#: Seconds between two looks at who else runs, at most: a part of the life of a lease.
LOOKS: Final = 1 / 3


class Sharing:
    """The part of one process, ``owner``, in the queues whose ``leases`` it has.

    Each process takes what is free until it leads as many queues as all others of its kind, and gives up what is above
    that. All parts together are never fewer than the queues, so none stays free. An embedded process takes nothing
    while a dedicated one runs, which takes over what it leads. ``interval`` and ``ttl`` are seconds, ``clock`` never
    goes back.
    """

    def __init__(
        self,
        leases: Leases,
        owner: str,
        kind: Kind,
        interval: float,
        ttl: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._leases = leases
        self._owner = owner
        self._kind = kind
        self._period = min(0.9 * interval, LOOKS * ttl)
        self._clock = clock
        self._looked = -math.inf
        self._mine: list[Reprioritizer] = []

    def look(self, every: Sequence[Reprioritizer]) -> tuple[list[Reprioritizer], list[Reprioritizer]]:
        """Return those that may tick, and, each time that it was looked who else runs, those that stand by.

        Raises what the broker's client raises when the broker is away.
        """
        if self._clock() - self._looked < self._period:
            return self._mine, []
        kinds, holders = self._leases.meet(), self._leases.holders()
        self._looked = self._clock()
        own = sorted((each for each in every if self._is_own(holders.get(each.backlog.queue))), key=_shuffled(""))
        part = self._part(kinds, len(own), len(every))
        # In another order for each process, so that few of them want the same.
        free = sorted(
            (each for each in every if self._is_free(holders.get(each.backlog.queue))), key=_shuffled(self._owner)
        )
        taken = free[: max(part - len(own), 0)]
        self._acquire([*(each for each in own[:part] if not each.leads), *taken])
        self._mine = [each for each in (*own[:part], *taken) if each.leads]
        mine = {each.backlog.queue for each in self._mine}
        return self._mine, [each for each in every if each.backlog.queue not in mine]

    def leave(self) -> None:
        """Leave all queues to the others."""
        self._leases.leave()

    def _part(self, kinds: Mapping[str, int], own: int, queues: int) -> int:
        if self._kind == "embedded" and kinds.get("dedicated"):
            return own
        return math.ceil(queues / max(kinds.get(self._kind, 0), 1))

    def _is_own(self, holder: Holder | None) -> bool:
        return holder is not None and (holder.owner, holder.kind) == (self._owner, self._kind)

    def _is_free(self, holder: Holder | None) -> bool:
        return holder is None or (holder.kind == "embedded" and self._kind == "dedicated")

    def _acquire(self, wanted: Sequence[Reprioritizer]) -> None:
        if wanted:
            fences = self._leases.acquire([each.backlog.queue for each in wanted])
            for each in wanted:
                each.take(fences[each.backlog.queue])


class Needed:
    """Tells of a process whether it leads anything, or may soon: it is given ``ttl`` seconds to take its part."""

    def __init__(self, ttl: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttl = ttl
        self._clock = clock
        self._led = clock()

    def by(self, reports: Iterable[Report]) -> bool:
        """Whether it is needed by these queues, whose last reports are given."""
        if any(report.role is not Role.STANDBY for report in reports):
            self._led = self._clock()
        return self._clock() - self._led < self._ttl


def _shuffled(salt: str) -> Callable[[Reprioritizer], int]:
    return lambda each: crc32(f"{salt} {each.backlog.queue}".encode())
