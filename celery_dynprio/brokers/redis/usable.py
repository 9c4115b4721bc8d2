"""Which levels of a queue the leader and operators may put tasks into, so that no task waits where nobody looks.

Workers without the add-on take from *plain* levels only: kombu's own, or those that the user gave to all. The levels
in between may be used while all workers of the queue take from them. The leader finds that out, and says so in a key of
the queue that expires; without it only the plain levels may be used.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Final

from celery_dynprio.errors import LeaseLostError
from celery_dynprio.levels import Scale, at_or_before
from celery_dynprio.models import Place

if TYPE_CHECKING:
    from celery_dynprio.brokers.redis.client import RedisClient
    from celery_dynprio.ports.broker import WorkersOfQueues

logger = logging.getLogger("celery_dynprio.usable")

#: The key of a queue in which the leader says so.
LEVELS_KEY: Final = "levels"

#: Seconds for which the levels of a queue may be used after the leader last said so; more where it ticks rarely.
TTL: Final = 30.0

#: One call of the script, which takes a millisecond or two, moves at most so many messages, or bytes and one message.
BATCH: Final = 500
BATCH_BYTES: Final = 500_000

#: Seconds between two log lines about tasks that wait where not all workers look.
WARN_INTERVAL: Final = 60.0


def said_in(raw: bytes | None, scale: Scale) -> tuple[Place, ...]:
    """Return the levels that the leader lets be used, as the key of a queue has them; the plain ones at least."""
    said = set((raw or b"").decode(errors="replace").split(","))
    return tuple(level for level in scale.levels if level in scale.plain or str(level) in said)


class RedisUsableLevels:
    """The levels of one queue. ``fleet`` knows its workers, for the leader: who has none goes by what that says."""

    def __init__(
        self,
        client: RedisClient,
        queue: str,
        fleet: WorkersOfQueues | None = None,
        *,
        ttl: float = TTL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.plain = client.scale.plain
        self._all = tuple(client.scale.levels)
        self._queue = queue
        self._steps = client.scale.numbers
        self._fleet = None if self.plain == self._all else fleet
        self._redis = client.redis
        self._lists = [client.level_key(queue, level) for level in self._all]
        self._scale = client.scale
        self._key = client.queue_key(queue, LEVELS_KEY)
        self._keys = [client.queue_key(queue, "lease"), client.queue_key(queue, "moves"), self._key]
        self._ttl = ttl
        self._script = client.script("levels")
        self._clock = clock
        self._before: tuple[Place, ...] | None = None
        self._next_warning = 0.0

    def now(self) -> tuple[Place, ...]:
        """The levels that may be used now, ascending; the plain ones are always among them."""
        if self.plain == self._all:
            return self._all
        common = None if self._fleet is None else self._fleet.steps(self._queue)
        if common is None:  # no worker answered yet: what the leader said, this one or the one before
            return self._said()
        return tuple(level for level in self._all if level in self.plain or self._steps[level] in common)

    def keep(self, levels: Sequence[Place], fence: str | None, seconds: float = math.inf) -> int:
        """Let only these levels be used from now on; return how many tasks were moved out of others.

        They go behind those in the level before that may be used, in their order. What is left after so many
        ``seconds`` is moved by the next call. ``fence`` is the leader's, None an operator's; raises
        :class:`~celery_dynprio.errors.LeaseLostError` if it is not the newest.
        """
        if self.plain == self._all:
            return 0
        if levels != self._before:
            self._tell(levels)
            self._before = tuple(levels)
        closed = [level for level in self._all if level not in levels]
        pairs = [self._lists[each] for level in closed for each in (level, at_or_before(level, levels))]
        text = "" if tuple(levels) == self.plain else ",".join(map(str, levels))
        arguments: list[str | int] = [fence or "", text, int(self._ttl * 1000), BATCH, BATCH_BYTES]
        until, moved = self._clock() + seconds, 0
        while True:
            answer: int | None = self._script(keys=[*self._keys, *pairs], args=arguments)
            if answer is None:
                raise LeaseLostError(f"queue {self._queue!r}: another reprioritizer leads it now")
            moved += answer
            if not answer or self._clock() >= until:
                break
        if moved:
            logger.info("dynprio %s: %d tasks moved to levels that all workers take from", self._queue, moved)
        return moved

    def leave(self, owner: str, fence: str) -> None:
        """Empty the levels in between before the leader stops, unless another worker takes from them.

        ``owner`` is whom the lease knows the leader by: that of a worker's own begins with the name of its node.
        """
        node, steps = owner.rsplit(":", 2)[0], frozenset(self._steps)
        if self._fleet is None or not self._fleet.has_others(self._queue, steps, node):
            self._before = self.plain  # that these are not used from now on is no news
            self.keep(self.plain, fence)

    def warn(self) -> None:
        """Log, once a minute at most, what waits in levels that may not be used, while nobody may move it."""
        if self.plain == self._all or self._clock() < self._next_warning:
            return
        self._next_warning = self._clock() + WARN_INTERVAL
        strays = self.strays(self.now())
        if strays:
            logger.warning(
                "dynprio %s: %s wait where not all workers take from, and moves are paused: run `celery -A proj "
                "dynprio drain` or `celery -A proj dynprio resume`",
                self._queue,
                ", ".join(f"{count} tasks in {key!r}" for key, count in strays.items()),
            )

    def strays(self, levels: Collection[Place]) -> dict[str, int]:
        """How many messages wait in the lists of other levels than these, by list; one round trip."""
        others = [self._lists[level] for level in self._all if level not in levels]
        pipe = self._redis.pipeline(transaction=False)
        for key in others:
            pipe.llen(key)
        return {key: count for key, count in zip(others, pipe.execute(), strict=True) if count}

    def _said(self) -> tuple[Place, ...]:
        return said_in(self._redis.mget(self._key)[0], self._scale)  # nothing, if the key holds no text

    def _tell(self, levels: Sequence[Place]) -> None:
        unused = ", ".join(f"P{level}" for level in self._all if level not in levels)
        if not unused:
            logger.info("dynprio %s: all levels are used: its workers take from each", self._queue)
            return
        old = self._fleet.without(self._queue, frozenset(self._steps)) if self._fleet else []
        why = f"{', '.join(old)} without the add-on" if old else "no worker that takes from them has answered"
        logger.info("dynprio %s: levels %s are not used: %s", self._queue, unused, why)
