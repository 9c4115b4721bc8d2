"""What the leader of a queue tells producers, so that they place new tasks where it would put them itself."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from celery_dynprio.levels import Bands
from celery_dynprio.models import Context, PendingTask, Place
from celery_dynprio.runtimes import Runtimes

#: Seconds after which guidance that nobody renewed is gone; more where the leader ticks rarely.
EXPIRY: Final = 30.0

#: Seconds after which what a producer did not read anew counts no more for it.
STALE: Final = 9.0

#: Seconds between two publications of a queue, at least.
PUBLISH_INTERVAL: Final = 1.0

#: How many task names and how many keys it tells of, at most: those with the largest figures.
MOST_ENTRIES: Final = 500


@dataclass(frozen=True, slots=True)
class Guidance:
    """What the leader of one queue knew when it last put it in order."""

    #: The scores of each level.
    bands: Bands
    #: Learned runtimes, and decayed use in seconds by key.
    runtimes: Runtimes = field(default_factory=Runtimes)
    use: Mapping[str, float] = field(default_factory=dict)
    #: Expected seconds by key of what runs, and of what is pending in this queue.
    running: Mapping[str, float] = field(default_factory=dict)
    waiting: Mapping[str, float] = field(default_factory=dict)
    #: Shares that operators have set, by key.
    shares: Mapping[str, float] = field(default_factory=dict)
    #: The levels that tasks may be put into beside the plain ones, as :class:`UsableLevels` says: stores add them when
    #: it is read, and nobody publishes them.
    levels: Collection[Place] = ()

    def context(self, now: float) -> Context:
        """Return what a producer knows ``now`` (Unix seconds). A new task comes after all that waits of its key."""
        waiting = self.waiting

        def ahead(task: PendingTask) -> float:
            return waiting.get(task.key or "", 0.0)

        return Context(now, self.runtimes, self.use, self.running, ahead, waiting.keys(), self.shares)

    def bounded(self, most: int = MOST_ENTRIES) -> Guidance:
        """Return this with so many entries of each mapping: those with the largest figures."""
        return replace(
            self,
            runtimes=self.runtimes.largest(most),
            use=_largest(self.use, most),
            running=_largest(self.running, most),
            waiting=_largest(self.waiting, most),
            shares=_largest(self.shares, most),
        )


def _largest(figures: Mapping[str, float], most: int) -> Mapping[str, float]:
    if len(figures) <= most:
        return figures
    return dict(heapq.nlargest(most, figures.items(), key=lambda item: item[1]))


class GuidanceStore(Protocol):
    """Where the leaders of all queues leave their guidance."""

    def publish(self, queue: str, guidance: Guidance) -> None:
        """Replace what is known of this queue; of long mappings, :data:`MOST_ENTRIES` are kept."""

    def read(self, queues: Collection[str]) -> Mapping[str, Guidance]:
        """Return the guidance of these queues, where there is any that has not expired; one round trip.

        It tells which levels may be used now.
        """
