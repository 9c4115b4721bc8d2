"""Where a task goes first: the level that the policy gives it when it is published, without any network."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from celery_dynprio.complaints import Complaints
from celery_dynprio.levels import Bands, Scale
from celery_dynprio.models import Context, PendingTask
from celery_dynprio.policies import Policy, Scorer

logger = logging.getLogger("celery_dynprio.router")

#: Seconds for which a bound policy is used again: what it reads (see Gauge) is not read with each publish.
BOUND_SECONDS: Final = 5.0

#: How many tasks that look different are remembered for as long.
MAX_REMEMBERED: Final = 10_000

#: The score of a task that the policy cannot score.
MIDDLE: Final = 0.5


class Placement:
    """Gives tasks their first level: the policy's score, in equal bands. A policy that fails means the middle.

    ``scale`` is how the broker numbers the levels. Tasks are published only to levels that workers without the add-on
    take from as well: to the last such level that is not behind the one they belong to.
    """

    def __init__(self, policy: Policy, scale: Scale) -> None:
        self.scale = scale
        self._priorities = tuple(map(scale.number_of, scale.levels))
        self._policy = policy
        self._bands = Bands.equal(len(scale.levels))
        self._bound: tuple[float, Scorer, dict[tuple[Any, ...], int]] | None = None
        self.complain = Complaints(logger, "the policy failed at publishing, tasks start in the middle: %s")

    def priority(self, task_id: str, name: str, header: Mapping[str, Any]) -> int:
        """Return the kombu priority of a task that is published now with this header."""
        pin: int | None = header.get("pin")
        if pin is not None:
            return self._priorities[pin]
        now: float = header["at"]
        bound = self._bound
        if bound is None or not 0 <= now - bound[0] < BOUND_SECONDS:
            bound = self._bind(now)
        at, scorer, priorities = bound
        # Moves all times to the moment at which the policy was bound.
        due: float | None = header.get("due")
        slack = None if due is None else int((due - now) * 1000)  # milliseconds, so that calls look alike
        features = task_id, name, header.get("w", 1.0), slack, header.get("key"), header.get("n", 0)
        priority = priorities.get(features)
        if priority is None:
            deadline = None if slack is None else at + slack / 1000
            task = PendingTask(task_id, name, at, features[2], deadline, features[4], features[5])
            priority = self._priorities[self._bands.level(self._score(scorer, task))]
            if len(priorities) < MAX_REMEMBERED:
                priorities[features] = priority
        return priority

    def unmanaged(self, priority: Any) -> Any:
        """Return the priority for an unmanaged queue: that asked for, or the one that kombu's own steps make of it."""
        try:
            level = self.scale.level_of(min(max(int(priority), 0), 9))
        except (TypeError, ValueError):  # kombu ignores it
            return priority
        return priority if self.scale.numbers[level] == self._priorities[level] else self._priorities[level]

    def _bind(self, now: float) -> tuple[float, Scorer, dict[tuple[Any, ...], int]]:
        """Bind the policy for a while, in which tasks that look alike are scored once."""
        try:
            scorer = self._policy.bind(Context(now))
        except Exception as exc:  # noqa: BLE001 - as in _score
            self.complain(repr(exc))
            scorer = _middle
        self._bound = now, scorer, {}
        return self._bound

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
