"""A broker in this process: see :class:`~celery_dynprio.ports.broker.Broker` for the methods."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from celery_dynprio.brokers.memory.backlog import MemoryBacklog
from celery_dynprio.brokers.memory.lease import MemoryLeader, MemoryLease, MemoryLeases
from celery_dynprio.errors import BrokerUnavailableError, DynPrioError
from celery_dynprio.levels import Scale
from celery_dynprio.models import HELD, PendingTask, Place
from celery_dynprio.ports.broker import BrokerErrors, Capabilities, WorkersOfQueues
from celery_dynprio.ports.health import Finding
from celery_dynprio.ports.lease import TTL, Kind
from celery_dynprio.stores.memory import MemoryStores


class MemoryBroker:
    """Queues of ``levels`` levels each, their leases and all stores; ``clock`` gives Unix seconds.

    Its tasks are no messages: publish to the :meth:`backlog` of a queue, and consume from it.
    """

    def __init__(self, levels: int = 10, clock: Callable[[], float] = time.time) -> None:
        self.scale = Scale.of(range(levels))
        self.capabilities = Capabilities()
        self.errors = BrokerErrors((), (), _explained)
        self.clock = clock
        self.stores = MemoryStores(clock)
        self.health = MemoryHealth(self)
        self.connection: Any = None
        self._leases: dict[str, MemoryLeader] = {}
        #: By the queues that are shared out, who does so, and until when.
        self._sharing: dict[frozenset[str], dict[str, float]] = {}
        self._backlogs: dict[str, MemoryBacklog] = {}

    def backlog(
        self,
        queue: str,
        window: int = 10_000,  # noqa: ARG002 - all is at hand
        *,
        clock: Callable[[], float] | None = None,  # noqa: ARG002 - no message remembers a move
        beat: Callable[[], object] | None = None,  # noqa: ARG002 - nothing takes long
    ) -> MemoryBacklog:
        """Return the pending tasks of one queue, the same object at each call."""
        if queue not in self._backlogs:
            self._backlogs[queue] = MemoryBacklog(queue, len(self.scale.levels), self._leases_of(queue))
        return self._backlogs[queue]

    def lease(self, queue: str, owner: str, kind: Kind = "dedicated", ttl: float = TTL) -> MemoryLease:
        """Return the right to move the tasks of a queue."""
        return MemoryLease(self._leases_of(queue), owner, kind, ttl)

    def leases(self, queues: Collection[str], owner: str, kind: Kind = "dedicated", ttl: float = TTL) -> MemoryLeases:
        """Return the same of many queues."""
        each = {queue: self.lease(queue, owner, kind, ttl) for queue in queues}
        return MemoryLeases(each, owner, kind, ttl, self._sharing.setdefault(frozenset(queues), {}))

    def levels(self, queue: str, workers: WorkersOfQueues | None = None, ttl: float = 30.0) -> MemoryLevels:  # noqa: ARG002 - as MemoryLevels
        """Return the levels of a queue that may be used: all."""
        return MemoryLevels(self.scale)

    def counts(self, queues: Iterable[str]) -> Mapping[str, Mapping[Place, int]]:
        """Return the number of tasks in each place of these queues."""
        return {queue: self.backlog(queue).count() for queue in queues}

    def occupied(self, queues: Collection[str]) -> Collection[str]:
        """Return those of these queues in which a leader has something to do."""
        counts = self.counts(queues)
        return {queue for queue in queues if any(count for place, count in counts[queue].items() if place != HELD)}

    def delivered(self) -> int:
        """Return 0: what was consumed is gone."""
        return 0

    def unacknowledged(self) -> Iterator[Mapping[str, Any]]:
        """Return nothing, as :meth:`delivered`."""
        return iter(())

    def delivery(self, raw: bytes) -> Any:
        """Raise ValueError: a task here is no message."""
        raise ValueError(f"{raw!r}: the memory broker has no messages")

    def rest(self) -> None:
        """Do nothing: there is no connection."""

    def close(self) -> None:
        """Do nothing: there is no connection."""

    def _leases_of(self, queue: str) -> MemoryLeader:
        return self._leases.setdefault(queue, MemoryLeader())


class MemoryLevels:
    """All levels, always: whoever consumes here takes from each."""

    def __init__(self, scale: Scale) -> None:
        self.plain: tuple[Place, ...] = tuple(scale.levels)

    def now(self) -> tuple[Place, ...]:
        """Return all levels."""
        return self.plain

    def keep(self, levels: Sequence[Place], fence: str | None, seconds: float = math.inf) -> int:  # noqa: ARG002 - all may be used
        """Move nothing."""
        return 0

    def leave(self, owner: str, fence: str) -> None:
        """Empty no level."""

    def warn(self) -> None:
        """Warn of nothing."""

    def strays(self, levels: Collection[Place]) -> dict[str, int]:  # noqa: ARG002 - as keep
        """Return nothing."""
        return {}


class MemoryHealth:
    """Finds no trouble: see :class:`~celery_dynprio.ports.health.Health`."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    def check_server(self) -> list[Finding]:
        """Return nothing: there is no server."""
        return []

    def check_rights(self, queues: Sequence[str]) -> list[Finding]:  # noqa: ARG002 - there are none
        """Return nothing: all is allowed."""
        return []

    def unpolled(self, queues: Sequence[str]) -> Mapping[str, int]:  # noqa: ARG002 - there are no other levels
        """Return nothing."""
        return {}

    def newest(self, queue: str, count: int) -> Iterator[PendingTask | str]:
        """Yield the ``count`` newest tasks of each level."""
        for level in self._broker.backlog(queue).read(self._broker.clock()).levels:
            yield from islice(reversed(level), count)


def _explained(problem: Exception) -> DynPrioError:
    return BrokerUnavailableError(str(problem))
