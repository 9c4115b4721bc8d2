"""What an operator can do to pending tasks. The command line and the methods of ``DynPrio`` are faces of this module."""

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

    def drain(self, now: float, *, held: bool = False) -> list[Drained]:
        """Pause, and bring all overflow back to the front, best first (``held``: the held tasks too).

        After it, everything that is pending is an ordinary message in an ordinary queue. ``now`` is Unix seconds.
        """
        self.pause()
        return [self._drain(queue, now, held=held) for queue in self._queues]

    def _drain(self, queue: str, now: float, *, held: bool) -> Drained:
        lease = RedisLease(self._client, queue, owner=f"drain:{uuid4()}", kind="operator")
        backlog = RedisBacklog(self._client, queue)
        score = Scores(self._policy, logger.warning).bind(Context(now))
        bands = Bands.equal(len(self._client.priority_steps))
        returned = 0
        try:
            for place in (OVERFLOW, HELD) if held else (OVERFLOW,):
                while tasks := sorted(backlog.parked(place, now), key=lambda task: (-score(task), task.published)):
                    for start in range(0, len(tasks), CHUNK):
                        moves = [_return(task, place, score(task), bands) for task in tasks[start : start + CHUNK]]
                        returned += backlog.apply(moves, lease.acquire()).count(Outcome.MOVED)
        finally:
            lease.release()
        return Drained(queue, returned, backlog.count()[HELD])


def _return(task: PendingTask, place: Place, score: float, bands: Bands) -> Move:
    return Move(task, place, bands.level(score) if task.pinned is None else task.pinned, score, "drain")
