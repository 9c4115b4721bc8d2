"""Which steps all workers of a queue take from. They are asked in the background, again and again.

A worker that has not loaded the add-on, or not yet, takes from fewer lists than one that has: what is put into the
others waits for the others, and for ever if these are gone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from celery_dynprio.operators.workers import Taker, takers

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger("celery_dynprio.fleet")

#: Seconds between two questions to all workers; with many workers so many more for each of them.
LOOK_INTERVAL: Final = 2.0
SECONDS_PER_WORKER: Final = 0.05

#: Seconds for which a worker counts after its last answer: one of the solo pool is silent while it runs a task.
SILENCE: Final = 600.0

#: Seconds that the first question may take before others go on without its answers.
FIRST_LOOK: Final = 3.0


class _Reply(NamedTuple):
    taker: Taker
    #: The round in which it answered last, and when.
    round: int
    at: float


class Fleet:
    """The workers that answered. ``ask`` asks them once; ``clock`` gives seconds that never go back."""

    def __init__(self, ask: Callable[[], Mapping[str, Taker]], clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._replies: dict[str, _Reply] = {}
        self._round = 0
        self._wanted = True
        self._stopped = threading.Event()
        self._looked = threading.Event()

    @classmethod
    def of(cls, app: Celery) -> Fleet:
        """The workers of this app."""
        return cls(lambda: {name: taker for name, (taker, _) in takers(app).items()})

    def start(self) -> None:
        """Ask in a thread from now on, while somebody wants to know; return after the first answers."""
        threading.Thread(target=self._run, name="dynprio-fleet", daemon=True).start()
        self._looked.wait(FIRST_LOOK)

    def stop(self) -> None:
        """Ask no more."""
        self._stopped.set()

    def look(self) -> None:
        """Ask all workers once. If none answers, what was known before stays."""
        found, now = self._ask(), self._clock()
        if not found:
            return
        silent = {name: each for name, each in self._replies.items() if now - each.at < SILENCE}
        self._round += 1
        self._replies = {**silent, **{name: _Reply(taker, self._round, now) for name, taker in found.items()}}

    def steps(self, queue: str) -> frozenset[int] | None:
        """The ``priority_steps`` that all workers of this queue have in common; None if none ever answered."""
        self._wanted = True
        replies = self._takers(queue)
        return frozenset.intersection(*(each.taker.steps for each in replies.values())) if replies else None

    def without(self, queue: str, steps: frozenset[int]) -> list[str]:
        """The names of the workers of this queue that do not take from all of these steps."""
        return sorted(name for name, each in self._takers(queue).items() if not steps <= each.taker.steps)

    def has_others(self, queue: str, steps: frozenset[int], node: str) -> bool:
        """Whether a worker other than ``node`` said when last asked that it takes from all of these steps."""
        return any(
            name != node and each.round == self._round and steps <= each.taker.steps
            for name, each in self._takers(queue).items()
        )

    def _takers(self, queue: str) -> dict[str, _Reply]:
        return {name: each for name, each in self._replies.items() if queue in each.taker.queues}

    def _run(self) -> None:
        while not self._stopped.is_set():
            if self._wanted:  # who stands by need not know
                self._wanted = False
                try:
                    self.look()
                except Exception as exc:  # noqa: BLE001 - whatever is wrong with the broker: the next look tells
                    logger.debug("the workers could not be asked: %r", exc)
                self._looked.set()
            self._stopped.wait(max(LOOK_INTERVAL, SECONDS_PER_WORKER * len(self._replies)))
