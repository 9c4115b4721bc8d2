"""What a broker must offer so that its pending tasks can be put in order."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from celery_dynprio.errors import DynPrioError
from celery_dynprio.levels import Scale
from celery_dynprio.models import Move, Outcome, PendingTask, Place, Snapshot
from celery_dynprio.ports.health import Health
from celery_dynprio.ports.lease import TTL, Kind, Lease, Leases
from celery_dynprio.ports.stores import Stores


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a broker can do; the planner plans around what it cannot."""

    #: A task in the front can be moved to another level.
    moves_in_front: bool = True
    #: Messages can be kept out of the workers' reach.
    parks: bool = True
    #: What is in the front can be read.
    sees_front: bool = True
    #: A move and its entry in the audit are one step; elsewhere the audit is written after the move.
    audits_moves: bool = True
    #: The broker refuses the moves of a leader that lost its lease.
    fences: bool = True
    #: Tasks with an ETA wait in the broker, and not in a worker.
    holds_eta: bool = False


class Found(NamedTuple):
    """A pending task that was looked for by its id."""

    task: PendingTask
    place: Place
    #: How many messages workers take before it, of those in the front; 0 where it is parked.
    ahead: int


class Scan(Protocol):
    """An iterator over the place, the task and the message of all that waits.

    The levels come in order, each from its last task to the next to run; then what is held, and the overflow. If others
    move tasks meanwhile, all of it comes again, so a task may come several times.
    """

    #: How often all was looked at, the present look included.
    look: int
    #: At most so many tasks may have been passed over, because they were moved in each look; known at the end.
    missed: int
    #: Messages of the front that are left where they are, by reason.
    foreign: Counter[str]

    def __iter__(self) -> Iterator[tuple[Place, PendingTask, bytes]]:
        """Return this."""

    def __next__(self) -> tuple[Place, PendingTask, bytes]:
        """Return the next place, task and message."""

    def keep(self) -> None:
        """Keep the message that was returned last, so that its task can be moved as one that was found."""


class Backlog(Protocol):
    """The pending tasks of one managed queue, wherever they wait.

    Each move is atomic: whatever is killed at whatever instruction, a task is in exactly one place. ``fence`` is
    what the lease gave when it was acquired; every change made with a fence that is not the newest is refused with
    :class:`~celery_dynprio.errors.LeaseLostError`. None means an operator, who needs no lease.
    """

    queue: str
    capabilities: Capabilities

    def read(self, now: float, *, overflow: bool = True) -> Snapshot:
        """Read what waits; ``now`` (Unix seconds) becomes the age of messages that carry none.

        Of a front with very much that is new, a part may be left to the next reads. Without ``overflow`` none is, and
        nothing new is learned of what is parked.
        """

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

    def ids_with(self, start: str, now: float) -> set[str]:
        """Return the ids that begin with this text, of all that is pending."""

    def scan(self, now: float, most: int | None = None, looks: int = 5) -> Scan:
        """Look at all that waits, each message with its place.

        After about ``most`` messages a look ends, of the front with what runs next. If others move tasks meanwhile, it
        is looked again, ``looks`` times at most.
        """

    def message(self, ref: str, place: Place) -> bytes | None:
        """Return the message in a parked place, or that was read or found in the front; None if there is none."""

    def parked_messages(self, place: Place, now: float) -> Iterator[tuple[PendingTask, bytes]]:
        """Return all tasks in a parked place, each with its message."""

    def cancelled(self, ids: Sequence[str]) -> list[str]:
        """Return those of these tasks that were cancelled and whose end was not published yet."""

    def cancelled_messages(self, task_id: str, messages: int = 1) -> dict[str, bytes]:
        """Return the messages of such a task by their names; ``messages`` is how many there are as far as known."""

    def moves(self) -> int:
        """Return how many moves were ever made in this queue, by whomever."""

    def parked(self, place: Place, now: float) -> Iterable[PendingTask]:
        """All tasks in one of the two parked places, in no order."""

    def count(self) -> dict[Place, int]:
        """Messages in each place, levels and parked places alike."""

    def cost(self, move: Move) -> float:
        """Seconds of broker time that this move is expected to take now."""

    def close(self) -> None:
        """Forget what was read, and give back what this holds of the broker; the next read starts anew."""


class WorkersOfQueues(Protocol):
    """The workers that answered, and the broker's numbers of the levels that they take from."""

    def steps(self, queue: str) -> frozenset[int] | None:
        """Return the numbers that all workers of this queue have in common; None if none ever answered."""

    def without(self, queue: str, steps: frozenset[int]) -> list[str]:
        """Return the names of the workers of this queue that do not take from all of these."""

    def has_others(self, queue: str, steps: frozenset[int], node: str) -> bool:
        """Whether a worker other than ``node`` said when last asked that it takes from all of these."""


class UsableLevels(Protocol):
    """The levels of one queue that tasks may be put into, so that none waits where no worker looks."""

    #: Those that workers without the add-on take from.
    plain: tuple[Place, ...]

    def now(self) -> tuple[Place, ...]:
        """Return the levels that may be used now, ascending; the plain ones are always among them."""

    def keep(self, levels: Sequence[Place], fence: str | None, seconds: float = math.inf) -> int:
        """Let only these levels be used from now on; return how many tasks were moved out of others.

        What is left after so many ``seconds`` is moved by the next call. ``fence`` is the leader's, None an operator's;
        raises :class:`~celery_dynprio.errors.LeaseLostError` if it is not the newest.
        """

    def leave(self, owner: str, fence: str) -> None:
        """Empty the levels in between before the leader ``owner`` stops, unless another worker takes from them."""

    def warn(self) -> None:
        """Log, once a minute at most, what waits in levels that may not be used, while nobody may move it."""

    def strays(self, levels: Collection[Place]) -> dict[str, int]:
        """Return how many messages wait in other levels than these, by the broker's name of the level."""


@dataclass(frozen=True, slots=True)
class BrokerErrors:
    """What a broker's client raises, and what it means."""

    #: A broker that is away, restarting or failing over, or that refuses a command.
    any: tuple[type[Exception], ...]
    #: An answer that is no answer to the question: a missing right, a replica, no memory.
    refusals: tuple[type[Exception], ...]
    #: Returns the error of ours that says what the client's error means, and the remedy.
    explain: Callable[[Exception], DynPrioError]


class Broker(Protocol):
    """One broker, as one process reaches it over one connection."""

    @property
    def scale(self) -> Scale:
        """How it numbers the levels."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""

    @property
    def errors(self) -> BrokerErrors:
        """What it raises."""

    @property
    def stores(self) -> Stores:
        """What it remembers."""

    @property
    def health(self) -> Health:
        """What it finds out about itself."""

    def clock(self) -> float:
        """Return the broker's clock, Unix seconds: what one process writes into messages, all others read."""

    def backlog(
        self,
        queue: str,
        window: int = 10_000,
        *,
        clock: Callable[[], float] | None = None,
        beat: Callable[[], object] | None = None,
    ) -> Backlog:
        """Return the pending tasks of one managed queue.

        ``window`` (messages) bounds what is read of a front that is far too deep. ``clock`` (Unix seconds, the broker's
        if it is None) tells when a move was made; ``beat`` is called with each step of what may take long.
        """

    def lease(self, queue: str, owner: str, kind: Kind = "dedicated", ttl: float = TTL) -> Lease:
        """Return the right to move the tasks of a queue, for ``owner``; it lives ``ttl`` seconds unless renewed."""

    def leases(self, queues: Collection[str], owner: str, kind: Kind = "dedicated", ttl: float = TTL) -> Leases:
        """Return the same of many queues, for a process that shares them out with others."""

    def levels(self, queue: str, workers: WorkersOfQueues | None = None, ttl: float = 30.0) -> UsableLevels:
        """Return the levels of a queue that may be used.

        ``workers`` is for the leader: others go by what the leader said, which counts for ``ttl`` seconds.
        """

    def counts(self, queues: Iterable[str]) -> Mapping[str, Mapping[Place, int]]:
        """Return the number of messages in each place of these queues; one round trip, whatever waits."""

    def occupied(self, queues: Collection[str]) -> Collection[str]:
        """Return those of these queues in which a leader has something to do.

        That is all in which messages wait, but for the held ones. It costs the less, the fewer there are.
        """

    def delivered(self) -> int:
        """Return how many messages of all queues workers have and did not acknowledge."""

    def unacknowledged(self) -> Iterator[Mapping[str, Any]]:
        """Return the headers of these messages; what is no Celery message has none."""

    def delivery(self, raw: bytes) -> Any:
        """Return the message as kombu hands it to a worker. Raises whatever a malformed message makes of that."""

    @property
    def connection(self) -> Any:
        """Return kombu's connection."""

    def rest(self) -> None:
        """Close what is connected until there is another call; not while one is under way in another thread."""

    def close(self) -> None:
        """Close the connection."""
