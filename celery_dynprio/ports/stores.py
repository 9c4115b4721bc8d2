"""What must be remembered, wherever the broker or a database keeps it.

Each store raises what its broker raises when that is away: see ``errors`` of
:class:`~celery_dynprio.ports.broker.Broker`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from celery_dynprio.models import Run, RunningTask, Start
from celery_dynprio.objectives import Objective, Standing
from celery_dynprio.ports.feed import Feed
from celery_dynprio.ports.guidance import EXPIRY, GuidanceStore
from celery_dynprio.ports.histograms import Histograms
from celery_dynprio.ports.spans import Spans
from celery_dynprio.runtimes import Runtimes

#: How many keys, how many task names, and how many pairs of both are remembered; beyond that, some of the least used
#: are forgotten.
MAX_REMEMBERED: Final = 10_000

#: Seconds for which a run counts as running if its worker does not tell again that it does.
RUNNING_TTL: Final = 60.0

#: How many runs are kept at once.
MAX_RUNNING: Final = 10_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that an operator did to one task, or to all (``id`` is "" then)."""

    #: Unix seconds, by the broker's clock.
    at: float
    #: "hold", "release", "bump", "reprioritize", "cancel", "pause", "resume", "drain" or "share".
    op: str
    #: User and machine.
    by: str
    #: What the operator gave as the reason; "" if nothing.
    why: str = ""
    queue: str = ""
    id: str = ""
    task: str = ""
    #: How it ended: "done", "already running", "already finished", "not found", ...
    answer: str = "done"


class UsageFigures(NamedTuple):
    """What was learned from runs."""

    runtimes: Runtimes
    #: Decayed use of worker time in seconds by fairness key.
    use: Mapping[str, float]


class Usage(Protocol):
    """A store of learned runtimes and use."""

    def add(self, runs: Iterable[Run]) -> None:
        """Learn from these runs."""

    def read(self, now: float) -> UsageFigures:
        """Return what was learned, as of ``now`` (Unix seconds)."""

    def close(self) -> None:
        """Close the connection that the store was given."""


class RunningStore(Protocol):
    """What runs now, as workers tell in the background.

    A run counts for :data:`RUNNING_TTL` seconds, unless its worker tells again that it goes on: so those of a worker
    that died end. At most :data:`MAX_RUNNING` are kept.
    """

    def start(self, runs: Iterable[RunningTask], now: float) -> None:
        """Count these as running, since they started by a clock at which it is ``now``; also again."""

    def end(self, ids: Iterable[str]) -> None:
        """Count these as running no more."""

    def read(self, now: float) -> Sequence[RunningTask]:
        """Return what runs ``now`` (Unix seconds)."""

    def close(self) -> None:
        """Close the connection that the store was given."""


class SetShare(NamedTuple):
    """The share of a key that an operator has set."""

    key: str
    share: float
    #: Unix seconds until which it counts; None for ever.
    until: float | None = None


class ShareStore(Protocol):
    """The shares of keys that operators have set."""

    def set(self, share: SetShare, now: float) -> None:
        """Keep it, in the place of another one of its key; what counts no more ``now`` (Unix seconds) is dropped."""

    def remove(self, key: str) -> bool:
        """Drop the share of a key; return whether there was one."""

    def read(self, now: float) -> Sequence[SetShare]:
        """Return those that count ``now`` (Unix seconds), sorted by key."""


class Switch(Protocol):
    """The kill switch: it stops all moves of all reprioritizers on one broker."""

    def pause(self) -> None:
        """Stop all moves, from the reprioritizers' next tick on; workers go on. Works out of memory, too."""

    def resume(self) -> None:
        """Let the reprioritizers move again."""

    def paused(self) -> bool:
        """Whether :meth:`pause` is in force."""


class Audit(Protocol):
    """What operators did: who, when, what, to which tasks, why, and how it ended. Bounded."""

    def add(self, **entry: str) -> None:
        """Keep one entry: fields of :class:`Entry` without ``at``."""

    def read(self) -> Iterator[Entry]:
        """Return all entries, the newest first; what is malformed is passed over."""

    def last_pause(self) -> Entry | None:
        """Return the newest pause or drain; None if newer entries have taken its place."""


class Attainment(Protocol):
    """Where starts are counted and breaches of objectives are remembered."""

    def add(self, starts: Iterable[Start]) -> None:
        """Count tasks that have just started."""

    def tell(self, queue: str, overdue: Mapping[int, int]) -> None:
        """Store how many tasks of one queue are overdue, by the index of the objective."""

    def read(self) -> Sequence[Standing]:
        """Return the state of all objectives."""

    def turn(self, standing: Standing) -> Standing | None:
        """Store a breach or a recovery; None if another reprioritizer was first."""

    def close(self) -> None:
        """Close the connection that the store was given."""


class Cancellations(Protocol):
    """A sign of life of operators who cancel tasks, so that no leader finishes what one of them is about to."""

    def show_life(self, by: str, seconds: float) -> None:
        """Say that ``by`` is cancelling tasks, for so long."""

    def under_way(self) -> bool:
        """Whether somebody said so, and it has not run out."""


class Stores(Protocol):
    """All stores of one broker. Each call opens nothing: they share the broker's connection."""

    def switch(self) -> Switch:
        """Return the kill switch."""

    def audit(self) -> Audit:
        """Return the log of what operators did."""

    def usage(self, half_life: float) -> Usage:
        """Return learned runtimes and use, which lose half of their weight in ``half_life`` seconds."""

    def running(self) -> RunningStore:
        """Return what runs now."""

    def shares(self) -> ShareStore:
        """Return the shares that operators have set."""

    def attainment(
        self, objectives: Sequence[Objective], clock: Callable[[], float] | None = None, interval: float = 1.0
    ) -> Attainment:
        """Return the counts of these objectives.

        ``clock`` gives Unix seconds (this process's own if it is None), ``interval`` is the seconds between two ticks.
        """

    def histograms(self) -> Histograms:
        """Return the histograms of waits and runs."""

    def spans(self, ttl: float = 86_400.0, spans: int = 1000, total: int = 100_000) -> Spans:
        """Return the trace store: traces are kept for ``ttl`` seconds, ``spans`` of one and ``total`` of all."""

    def feed(self) -> Feed:
        """Return what workers tell recorders; each recorder has one of its own."""

    def cancellations(self) -> Cancellations:
        """Return the signs of life of operators who cancel tasks."""

    def guidance(self, expiry: float = EXPIRY) -> GuidanceStore:
        """Return what leaders tell producers, which is kept for ``expiry`` seconds."""
