"""Where a task goes first: the level that the policy gives it when it is published, without any network.

What the leader of the queue told lately counts as for itself. Where nothing is known of it, as in a process that has
just begun to publish, the levels are equal bands of the scores, and nobody has used anything.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple, TypeAlias

from celery_dynprio.complaints import Complaints
from celery_dynprio.levels import Bands, Scale, at_or_before
from celery_dynprio.models import Context, PendingTask, Place
from celery_dynprio.policies import Policy, Scorer
from celery_dynprio.policies.charges import CAUTIOUS, Charge, Charges
from celery_dynprio.ports.guidance import Guidance
from celery_dynprio.producer.guide import FIRST_READ, Guide, NoGuide
from celery_dynprio.runtimes import Named

logger = logging.getLogger("celery_dynprio.router")

#: Seconds for which a bound policy is used again: what it reads (see Gauge) is not read with each publish.
BOUND_SECONDS: Final = 5.0

#: Seconds for which nobody looks whether the leader has told anything new.
LOOK_SECONDS: Final = 0.25

#: How many tasks that look different are remembered for as long.
MAX_REMEMBERED: Final = 10_000

#: What a process publishes for a key makes a difference so often while that, and CAUTIOUS seconds, double.
STEPS: Final = 8

#: The score of a task that the policy cannot score.
MIDDLE: Final = 0.5

#: The kombu priority of a task, and what its key is charged for it in seconds.
_Placed: TypeAlias = tuple[int, float]


class Kind(NamedTuple):
    """Calls of one task to one queue that say nothing but what the task declares: they differ by their key alone."""

    queue: str
    name: str
    weight: float
    #: Seconds from publishing.
    deadline: float | None


@dataclass(slots=True)
class _Bound:
    """A policy that is bound for one queue for a while, in which tasks that look alike are scored once.

    What this process publishes meanwhile goes before what it publishes later for the same key. Tasks look alike as long
    as that makes no difference worth mentioning.
    """

    at: float
    #: When the guide is to be looked at again, and when this is to be bound anew.
    look: float
    until: float
    guidance: Guidance | None
    bands: Bands
    #: The kombu priority for each level.
    priorities: Sequence[int]
    context: Context
    #: What the key of a task is charged for it, in seconds.
    charge: Charge
    scorer: Scorer = field(init=False)
    #: What was published, in seconds by key.
    published: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    #: The priorities of tasks that look alike, and what their key is charged for each.
    tasks: dict[tuple[Any, ...], _Placed] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.scorer = _middle
        before, published = self.context.ahead, self.published
        self.context = replace(self.context, ahead=lambda task: before(task) + published.get(task.key or "", 0.0))

    def step(self, key: str) -> int:
        """Return a number that changes when so much was published for a key that its next task scores differently."""
        seconds = self.published.get(key)
        return int(STEPS * math.log2(1.0 + seconds / CAUTIOUS)) if seconds else 0


class Placement:
    """Gives tasks their first level: the policy's score, in the queue's bands. A policy that fails means the middle.

    ``scale`` is how the broker numbers the levels, ``guide`` knows what the leaders say. Tasks are published to the
    levels that the leader of the queue lets be used, and else only to those that workers without the add-on take from
    as well: to the last such level that is not behind the one they belong to.
    """

    def __init__(self, policy: Policy, scale: Scale, guide: Guide | None = None) -> None:
        self.scale = scale
        self._priorities = tuple(map(scale.number_of, scale.levels))
        self._policy = policy
        self._bands = Bands.equal(len(scale.levels))
        self._guide = guide or NoGuide()
        self._bound: dict[str, _Bound] = {}
        self.complain = Complaints(logger, "the policy failed at publishing, tasks start in the middle: %s")

    def priority(self, queue: str, task_id: str, name: str, header: Mapping[str, Any]) -> int:
        """Return the kombu priority of a task that is published now to this queue with this header."""
        pin: int | None = header.get("pin")
        if pin is not None:
            return self._priorities[pin]
        now: float = header["at"]
        bound = self._bound.get(queue)
        if bound is None or not bound.at <= now < bound.look:
            bound = self._look(queue, now)
        # Moves all times to the moment at which the policy was bound.
        due: float | None = header.get("due")
        slack = None if due is None else int((due - now) * 1000)  # milliseconds, so that calls look alike
        waited = int(now - header["first"]) if "first" in header else 0  # seconds; of a retry
        key: str | None = header.get("key")
        step = bound.step(key or "") if bound.published else 0
        features = task_id, name, header.get("w", 1.0), slack, key, header.get("n", 0), waited, step
        placed = bound.tasks.get(features)
        if placed is None:
            deadline = None if slack is None else bound.at + slack / 1000
            task = PendingTask(task_id, name, bound.at - waited, features[2], deadline, key, features[5])
            placed = self._place(bound, features, task)
        priority, seconds = placed
        if seconds:
            bound.published[key or ""] += seconds
        return priority

    def priority_of(self, kind: Kind, key: str | None, now: float) -> int:
        """Return what :meth:`priority` does for a call of this kind, sooner: nothing but the key is looked at."""
        bound = self._bound.get(kind.queue)
        if bound is None or not bound.at <= now < bound.look:
            bound = self._look(kind.queue, now)
        features = kind, key, bound.step(key or "") if bound.published else 0
        placed = bound.tasks.get(features)
        if placed is None:
            deadline = None if kind.deadline is None else bound.at + kind.deadline
            placed = self._place(bound, features, PendingTask("", kind.name, bound.at, kind.weight, deadline, key))
        priority, seconds = placed
        if seconds:
            bound.published[key or ""] += seconds
        return priority

    def unmanaged(self, priority: Any) -> Any:
        """Return the priority for an unmanaged queue: that asked for, or the one that kombu's own steps make of it."""
        try:
            level = self.scale.level_of(min(max(int(priority), 0), 9))
        except (TypeError, ValueError):  # kombu ignores it
            return priority
        return priority if self.scale.numbers[level] == self._priorities[level] else self._priorities[level]

    def _place(self, bound: _Bound, features: tuple[Any, ...], task: PendingTask) -> _Placed:
        placed = bound.priorities[bound.bands.level(self._score(bound.scorer, task))], bound.charge(task)
        if len(bound.tasks) < MAX_REMEMBERED:
            bound.tasks[features] = placed
        return placed

    def _look(self, queue: str, now: float) -> _Bound:
        """Return the policy as it is bound for a queue, which is bound anew where the leader has told something new."""
        bound = self._bound.get(queue)
        if bound is None or not bound.at <= now < bound.until or self._guide.of(queue) is not bound.guidance:
            bound = self._bind(queue, now)
        bound.look = min(now + LOOK_SECONDS, bound.until)
        return bound

    def _bind(self, queue: str, now: float) -> _Bound:
        self._guide.wanted(queue)
        guidance, bands, context = self._guide.of(queue), self._bands, Context(now)
        priorities: Sequence[int] = self._priorities
        charged: Charge = _nothing
        if guidance is not None and guidance.bands.count == bands.count:
            bands, context = guidance.bands, guidance.context(now)
            charged, priorities = Charges(context), self._priorities_in(guidance.levels)
        until = now + (BOUND_SECONDS if queue in self._bound else FIRST_READ)
        bound = self._bound[queue] = _Bound(now, now, until, guidance, bands, priorities, context, charged)
        try:
            bound.scorer = self._policy.bind(bound.context)
        except Exception as exc:  # noqa: BLE001 - as in _score
            self.complain(repr(exc))
        return bound

    def _priorities_in(self, levels: Collection[Place]) -> Sequence[int]:
        """Return the priority for each level if these may be used beside the plain ones."""
        scale = self.scale
        usable = [level for level in scale.levels if level in scale.plain or level in levels]
        return [scale.numbers[at_or_before(level, usable)] for level in scale.levels]

    def _score(self, scorer: Scorer, task: PendingTask) -> float:
        try:
            score = scorer(task)
            if 0 <= score <= 1:
                return score
            self.complain(f"score {score!r} of task {task.name} is not between 0 and 1")
        except Exception as exc:  # noqa: BLE001 - the user's code may raise anything, and callers must not notice
            self.complain(repr(exc))
        return MIDDLE


@dataclass(frozen=True, slots=True)
class Routing:
    """What the router needs of the app's settings."""

    #: The managed queues.
    queues: frozenset[str]
    placement: Placement
    #: The app's ``task_default_queue``; here because a look into Celery's settings takes microseconds.
    default_queue: str
    #: Whether subtasks take key, weight and deadline from their parent.
    inherit: bool
    #: Whether a call fails whose key cannot be found or is too long.
    strict: bool = False


def _middle(task: PendingTask) -> float:  # noqa: ARG001 - it scores all alike
    return MIDDLE


def _nothing(task: Named) -> float:  # noqa: ARG001 - it charges nobody
    return 0.0
