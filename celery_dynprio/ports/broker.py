"""The port: what a broker must offer so that its pending tasks can be put in order."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from celery_dynprio.models import Move, Outcome, PendingTask, Place, Snapshot


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a broker can do; the planner plans around what it cannot."""

    #: A task in the front can be moved to another level.
    moves_in_front: bool = True
    #: Messages can be kept out of the workers' reach.
    parks: bool = True


class Found(NamedTuple):
    """A pending task that was looked for by its id."""

    task: PendingTask
    place: Place
    #: How many messages workers take before it, of those in the front; 0 where it is parked.
    ahead: int


class Backlog(Protocol):
    """The pending tasks of one managed queue, wherever they wait.

    Each move is atomic: whatever is killed at whatever instruction, a task is in exactly one place. ``fence`` is
    what the lease gave when it was acquired; every change made with a fence that is not the newest is refused with
    :class:`~celery_dynprio.errors.LeaseLostError`. None means an operator, who needs no lease.
    """

    queue: str
    capabilities: Capabilities

    def read(self, now: float) -> Snapshot:
        """Read what waits; ``now`` (Unix seconds) becomes the age of messages that carry none."""

    def find(self, ids: Collection[str], now: float) -> Mapping[str, Sequence[Found]]:
        """Look for all messages with these ids in all places but the cancelled; ``now`` is as in :meth:`read`.

        Those in the front come first, the next to run before all others. Whatever moves meanwhile is found all the
        same; an id that is left out was delivered, cancelled or never here.
        """

    def headers(self, moves: Sequence[Move]) -> Mapping[str, Mapping[str, Any]]:
        """The headers of the messages that these moves are of, by task id; what is gone is left out."""

    def apply(self, moves: Sequence[Move], fence: str | None = None, audit: str = "") -> list[Outcome]:
        """Make the moves in this order and tell, for each, what happened.

        The tasks must have been read, or found. A text in ``audit``, a JSON object, is kept with each move that is
        made, in the same instant.
        """

    def discard(self, ref: str, place: Place) -> bool:
        """Remove one parked message for good; tell whether it was there."""

    def spill(self, count: int, now: float, fence: str | None = None) -> int:
        """Park the newest messages of the last levels in bulk, at most ``count``; return how many.

        ``now`` is as in :meth:`read`.
        """

    def parked(self, place: Place, now: float) -> Iterable[PendingTask]:
        """All tasks in one of the two parked places, in no order."""

    def count(self) -> dict[Place, int]:
        """Messages in each place, levels and parked places alike."""

    def cost(self, move: Move) -> float:
        """Seconds of broker time that this move is expected to take now."""

    def close(self) -> None:
        """Forget what was read, and give back what this holds of the broker; the next read starts anew."""
