"""What operators see: a list of pending tasks, an explanation, figures, a comparison of policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from celery_dynprio.engine.draws import Range
from celery_dynprio.engine.ordering import Shift, Turn
from celery_dynprio.engine.scene import Scene
from celery_dynprio.models import Contribution, Moved, PendingTask, Place
from celery_dynprio.objectives import Standing
from celery_dynprio.operators.workers import Workers
from celery_dynprio.policies.fair_share import Account
from celery_dynprio.ports.lease import Holder
from celery_dynprio.ports.stores import Entry


@dataclass(frozen=True, slots=True)
class Listing:
    """Pending tasks in the order in which they are expected to run, by queue."""

    turns: Sequence[Turn]
    #: How many tasks were meant; more than there are turns if a limit was given.
    matching: int
    #: At most so many others may have been passed over: each was moved each time that it was looked for.
    missed: int = 0
    #: Messages of all queues that workers have and did not acknowledge; 0 if only some tasks were asked for.
    delivered: int = 0


@dataclass(frozen=True, slots=True)
class Ahead:
    """Why a task right ahead of another is ahead."""

    task: PendingTask
    place: Place
    score: float
    reason: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a task is where it is."""

    turn: Turn
    #: What each factor says of it now (as Slurm's ``sprio -l``); none for a pinned task, which no policy moves.
    contributions: Sequence[Contribution]
    #: How many tasks are ahead of it, by place.
    ahead_by_place: Mapping[Place, int]
    #: The ones right ahead, the nearest first.
    ahead: Sequence[Ahead]
    #: The moves that its message remembers: the first, and the last ones.
    moves: Sequence[Moved]
    #: What operators did to it, the newest first.
    operations: Sequence[Entry]
    trace_id: str
    #: Unix seconds at which it comes within the workers' reach if nothing changes: now for what is there already, None
    #: if that cannot be told (see :class:`~celery_dynprio.engine.ordering.Turn`).
    in_front: float | None
    #: When it is expected to start (Unix seconds): with a probability of 80 % between ``low`` and ``high``, whoever
    #: arrives meanwhile (see :mod:`celery_dynprio.engine.forecast`). None if that cannot be told, as ``in_front``.
    start: Range | None
    #: The objective that it is held back for; "" if it is not.
    held_back_for: str = ""
    #: How many messages with its id are pending. What operators do is done to all of them.
    messages: int = 1
    #: What fair share counts for its key; None if the policy has none, or no policy moves it.
    fair_share: Account | None = None


@dataclass(frozen=True, slots=True)
class QueueStats:
    """Figures of one managed queue."""

    queue: str
    #: Messages in each level, and the longest wait there in seconds (None: nobody waits, or it was not read).
    depths: Sequence[int]
    oldest: Sequence[float | None]
    overflow: int
    held: int
    #: Messages that are left where they are, by reason.
    foreign: Mapping[str, int]
    #: Moves that were ever made.
    moves: int
    leader: Holder | None


@dataclass(frozen=True, slots=True)
class Stats:
    """Figures of one broker."""

    #: Unix seconds.
    at: float
    paused: bool
    queues: Sequence[QueueStats]
    workers: Workers = field(default_factory=Workers)
    #: Learned mean runtime in seconds by task name, and decayed use in seconds by fairness key.
    runtimes: Mapping[str, float] = field(default_factory=dict)
    use: Mapping[str, float] = field(default_factory=dict)
    #: How the objectives stand.
    objectives: Sequence[Standing] = ()
    #: Who paused, when and why; None if nothing is paused, or that is forgotten.
    pause: Entry | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the pending tasks of one queue would be ordered by another policy."""

    queue: str
    #: Those that gain most first.
    shifts: Sequence[Shift]
    #: What both were asked about, to be played forward.
    scene: Scene
