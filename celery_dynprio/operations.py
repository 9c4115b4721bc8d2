"""What an operator can do to pending tasks: behind the command line and the methods of ``DynPrio``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from celery_dynprio.backlogs.redis import RedisBacklog
from celery_dynprio.backlogs.redis_client import RedisClient
from celery_dynprio.lease import RedisLease
from celery_dynprio.levels import Bands
from celery_dynprio.message import KOMBU_STEPS
from celery_dynprio.models import HELD, OVERFLOW, Context, Move, Outcome, PendingTask, Place
from celery_dynprio.policies.base import Policy
from celery_dynprio.scores import Scores

logger = logging.getLogger(__name__)

#: Tasks that are brought back between two renewals of the lease.
CHUNK: Final = 500


@dataclass(frozen=True, slots=True)
class Drained:
    """What :meth:`Operations.drain` did to one queue."""

    queue: str
    #: Tasks brought back to the front.
    returned: int
    #: Messages put into levels that an app without the add-on looks at.
    merged: int
    #: Held tasks that stay held.
    held: int


class Operations:
    """The operator's side of the managed queues of one broker; each call is atomic against workers and reprioritizers.

    Raises :class:`~celery_dynprio.errors.BrokerUnavailableError` when the broker does not answer.
    """

    def __init__(self, client: RedisClient, queues: Sequence[str], policy: Policy) -> None:
        self._client = client
        self._queues = queues
        self._policy = policy
        self._paused_key = client.app_key("paused")

    def pause(self) -> None:
        """Stop all moves of all reprioritizers on this broker from their next tick on; workers go on."""
        self._client.redis.set(self._paused_key, "1")

    def resume(self) -> None:
        """Let the reprioritizers move again."""
        self._client.redis.delete(self._paused_key)

    def paused(self) -> bool:
        """Whether :meth:`pause` is in force."""
        return bool(self._client.redis.exists(self._paused_key))

    def drain(self, now: float, *, held: bool = False, steps: Sequence[int] = KOMBU_STEPS) -> list[Drained]:
        """Pause, and bring all overflow back to the front, best first (``held``: the held tasks too).

        After it, everything that is pending is an ordinary message in a list that kombu looks at with these
        ``priority_steps``; levels between two steps join the one before them, in order. ``now`` is Unix seconds.
        """
        self.pause()
        return [self._drain(queue, now, held=held, steps=steps) for queue in self._queues]

    def _drain(self, queue: str, now: float, *, held: bool, steps: Sequence[int]) -> Drained:
        lease = RedisLease(self._client, queue, owner=f"drain:{uuid4()}", kind="operator")
        backlog = RedisBacklog(self._client, queue)
        try:
            lease.acquire()  # before the first look: a tick that began before the pause must park nothing after it
            returned = sum(
                self._return(backlog, lease, place, now) for place in ((OVERFLOW, HELD) if held else (OVERFLOW,))
            )
            merged = self._merge(queue, steps)
        finally:
            lease.release()
        return Drained(queue, returned, merged, backlog.count()[HELD])

    def _return(self, backlog: RedisBacklog, lease: RedisLease, place: Place, now: float) -> int:
        """Bring back all that is parked in one place; the lease is taken anew for each chunk, as it expires."""
        score = Scores(self._policy, logger.warning).bind(Context(now))
        bands = Bands.equal(len(self._client.priority_steps))
        returned = 0
        while tasks := sorted(backlog.parked(place, now), key=lambda task: (-score(task), task.published)):
            for start in range(0, len(tasks), CHUNK):
                moves = [_back(task, place, score(task), bands) for task in tasks[start : start + CHUNK]]
                returned += backlog.apply(moves, lease.acquire()).count(Outcome.MOVED)
        return returned

    def _merge(self, queue: str, steps: Sequence[int]) -> int:
        """Empty the levels that are not among these steps; a message is moved by LMOVE as it is, whatever it is."""
        own = self._client.priority_steps
        merged = 0
        for level, priority in enumerate(own):
            target = max((index for index, step in enumerate(own) if step in steps and step <= priority), default=level)
            source_key, target_key = (self._client.level_key(queue, each) for each in (level, target))
            while level != target and self._client.redis.lmove(source_key, target_key, "RIGHT", "LEFT") is not None:
                merged += 1
        return merged


def _back(task: PendingTask, place: Place, score: float, bands: Bands) -> Move:
    return Move(task, place, bands.level(score) if task.pinned is None else task.pinned, score, "drain")
