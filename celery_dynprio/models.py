"""The values that the parts of this package hand to each other.

All are frozen: whoever wants another value makes another object.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any, Final, NamedTuple, TypeAlias

from celery_dynprio.objectives import Standing
from celery_dynprio.runtimes import Runtimes

#: Where a pending task is: a level from 0 (first) upward, or one of the two parked places below.
Place: TypeAlias = int

#: Parked because the front is deep; the reprioritizer brings it back, best first.
OVERFLOW: Final[Place] = -1

#: Parked by an operator; only an operator brings it back.
HELD: Final[Place] = -2

#: Parked messages are kept by id. A further one with the same id is kept by the id, this, and a number.
COPY: Final = "\x06\x16"

#: So many messages with one id are kept in one parked place at most.
MOST_COPIES: Final = 1000

#: Taken out by an operator who tells whoever waits for its result; it never comes back.
CANCELLED: Final[Place] = -3


def is_level(place: Place) -> bool:
    """Whether workers can take what is here; otherwise it is parked."""
    return place >= 0


def place_name(place: Place) -> str:
    """What people call a place: P0 to P9, parked, or held."""
    if is_level(place):
        return f"P{place}"
    return "held" if place == HELD else "parked"


def copy_after(others: int) -> str:
    """What tells a message apart from so many others with the same id."""
    return f"{COPY}{others + 1}" if others else ""


@dataclass(frozen=True, slots=True)
class PendingTask:
    """A task that is published and not yet delivered to a worker, as its message tells."""

    id: str
    name: str
    #: Unix time in seconds; for a message without our header, when the reprioritizer first saw it. For a retry that of
    #: its first try, later by the pauses that were asked for: so a task does not lose its age by being tried again.
    published: float
    #: Business importance, 0 to 10.
    weight: float = 1.0
    #: Unix time in seconds by which the task should have started; None if it has no deadline.
    deadline: float | None = None
    #: The fairness key (tenant, customer, user); None if the task has none.
    key: str | None = None
    #: How many tasks wait for this one in its chain or chord.
    dependents: int = 0
    #: The level an explicit ``priority=`` (or an operator) fixed; None if the policy decides.
    pinned: Place | None = None
    #: Whether it was published with an eta or a countdown, as a retry is: then waiting may be what was asked for.
    scheduled: bool = False
    #: Tells several messages with one id apart: "" for the first of them, as nearly always for the only one.
    copy: str = ""

    @property
    def ref(self) -> str:
        """The name of this very message: the id, and what tells it apart from others with that id."""
        return self.id + self.copy


class Level(tuple[PendingTask, ...]):  # noqa: SLOT001 - what is worked out needs a place
    """The tasks of one level, the next to run first. What is worked out of all of them is kept with them."""

    @classmethod
    def of(cls, tasks: Sequence[PendingTask]) -> Level:
        """Return these tasks as a level: themselves, if they are one."""
        return tasks if isinstance(tasks, Level) else cls(tasks)

    @cached_property
    def free(self) -> Level:
        """Those that are not pinned."""
        if all(task.pinned is None for task in self):
            return self
        return Level(task for task in self if task.pinned is None)

    @cached_property
    def oldest(self) -> float:
        """When the first of them was published (Unix seconds); infinity if there is none."""
        return min((task.published for task in self), default=math.inf)


def nothing_ahead(task: PendingTask) -> float:  # noqa: ARG001 - the same of each
    """Return 0 seconds: where nobody knows what else is pending."""
    return 0.0


@dataclass(frozen=True, slots=True)
class Context:
    """What a policy may know besides the task: one object a tick."""

    #: Unix time in seconds.
    now: float
    #: Learned runtimes: the mean in seconds by task name, and ``runtimes.expected(task)``.
    runtimes: Runtimes = field(default_factory=Runtimes)
    #: Decayed use in seconds of worker time by fairness key (tasks without a key count under "").
    use: Mapping[str, float] = field(default_factory=dict)
    #: Expected seconds of worker time of the tasks that run now, by fairness key.
    running: Mapping[str, float] = field(default_factory=dict)
    #: Expected seconds of worker time of the pending tasks of the same key, in the same queue, that go before a task.
    ahead: Callable[[PendingTask], float] = nothing_ahead
    #: The fairness keys of all pending tasks of the queue, as far as they are known.
    pending_keys: Collection[str] = ()
    #: Shares by fairness key that operators have set; they count before those in the policy.
    shares: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contribution:
    """One line of an explanation: what a factor said and what it added to the score."""

    factor: str
    #: What the factor returned, in [0, 1].
    value: float
    #: The weight the policy gives the factor.
    weight: float
    #: What this added to the score: value * weight / sum of the weights.
    contribution: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The pending tasks of one queue at one moment, as far as they were read."""

    #: For each level the tasks that can be moved, the next to run first. A level in which nothing changed since the
    #: last read is the same object, and a :class:`Level` keeps what is worked out of its tasks.
    levels: tuple[tuple[PendingTask, ...], ...]
    #: For each level all messages in the broker, read or not, ours or not.
    depths: tuple[int, ...]
    #: Overflow known so far, by task id.
    overflow: Mapping[str, PendingTask]
    #: All messages that are parked as overflow, that are held, and of cancelled tasks whose end is not told yet.
    overflow_depth: int = 0
    held_depth: int = 0
    cancelled_depth: int = 0
    #: Messages left where they are, counted by reason ("not JSON", "no id", ...).
    foreign: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Move:
    """One pending task from one place to another."""

    task: PendingTask
    source: Place
    target: Place
    #: In [0, 1]; what the policy (or its last good answer) said.
    score: float
    #: Short text for people and metrics: "score", "overflow", "refill", "starving", ...
    reason: str
    #: Fields of the message's header (see :data:`celery_dynprio.message.HEADER`) to be set; None removes one.
    #: A move from a place to itself only changes the message.
    changes: Mapping[str, Any] | None = None
    #: Whether to put it where workers take next, before all others of its level, instead of behind them.
    first: bool = False


class Moved(NamedTuple):
    """A move that was made, as the message itself remembers it."""

    #: Unix time in seconds.
    at: float
    source: Place
    target: Place
    score: float
    reason: str


class Outcome(Enum):
    """What happened to one move."""

    MOVED = "moved"
    #: Not where it was: delivered, moved or removed by someone else meanwhile.
    GONE = "gone"
    #: It stays where it was: the target already has a message of that id.
    REFUSED = "refused"


class Role(Enum):
    """What a reprioritizer is to a queue at one tick."""

    LEADER = "leader"
    #: Another one leads.
    STANDBY = "standby"
    #: An operator paused all moves.
    PAUSED = "paused"
    #: It plans and reports, and moves nothing.
    DRY_RUN = "dry run"


@dataclass(frozen=True, slots=True)
class Report:
    """What one tick did to one queue."""

    queue: str
    role: Role
    #: Unix time in seconds at which the tick began, and seconds that it took.
    started: float
    seconds: float = 0.0
    #: Tasks read from the front, and messages in the front and in the parked places before the moves.
    read: int = 0
    front: int = 0
    overflow: int = 0
    held: int = 0
    #: Messages of cancelled tasks whose end is not told yet: their operator is about to, or died.
    cancelled: int = 0
    #: Messages left where they are, by reason.
    foreign: Mapping[str, int] = field(default_factory=dict)
    #: What was planned (and in a dry run not done), and what happened to each.
    moves: Sequence[Move] = ()
    outcomes: Sequence[Outcome] = ()
    #: Moves that were wanted but over the budget, and messages parked in bulk before planning.
    deferred: int = 0
    spilled: int = 0
    #: What was read, before the moves; None if nothing was.
    snapshot: Snapshot | None = None
    #: The trace ids of tasks that were to be moved, as far as they were asked for, by task id.
    traces: Mapping[str, str] = field(default_factory=dict)
    #: How the objectives stand, and those that were breached or recovered in this tick.
    standings: Sequence[Standing] = ()
    turned: Sequence[Standing] = ()
    #: Parked messages that are not brought back because they yield to an objective.
    held_back: int = 0


class Run(NamedTuple):
    """One run of a task, as a worker measured it."""

    name: str
    #: The fairness key; "" for a task that has none.
    key: str
    seconds: float
    #: For histograms only; None if unknown: the level from which a worker took it, how long it had waited (seconds),
    #: and whether it started in time for its deadline.
    level: int | None = None
    wait: float | None = None
    in_time: bool | None = None


class RunningTask(NamedTuple):
    """A run that has not ended, as far as is known."""

    #: Tells it from all other runs.
    id: str
    name: str
    #: The fairness key; "" for a task that has none.
    key: str
    #: Unix seconds.
    started: float


class Start(NamedTuple):
    """A task that a worker started."""

    name: str
    #: Seconds since it was published.
    wait: float
