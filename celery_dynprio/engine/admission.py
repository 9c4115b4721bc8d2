"""How much expendable work runs while an objective is breached: as much as leaves the promised tasks their slots. Pure.

Workers take whatever is in the front, so the only thing to decide is which expendable tasks are let into it. A worker
does not say when it takes a task: one that was let in and has left the front is taken to run for its learned runtime.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from celery_dynprio.models import PendingTask
from celery_dynprio.objectives import Names, Standing


def slots_needed(standings: Sequence[Standing], runtimes: Mapping[str, float]) -> int:
    """How many slots to keep free for what these objectives promise.

    The offered load (rate times runtime) plus its square root, as for the staff of a call centre: at that many, few
    have to wait (Halfin and Whitt 1981). At least one; ``runtimes`` are learned means in seconds by task name.
    """
    names = Names([standing.objective.match for standing in standings])
    load = 0.0
    for index, standing in enumerate(standings):
        seconds = [mean for name, mean in runtimes.items() if index in names.matching(name)]
        load += standing.rate * sum(seconds) / max(len(seconds), 1)
    return max(math.ceil(load + math.sqrt(load)), 1)


#: For how many seconds nothing is let in after promised tasks had to wait for what was.
FIRST_PAUSE: Final = 10.0


@dataclass(frozen=True, slots=True)
class _Admitted:
    queue: str
    name: str
    #: When it was last seen pending (Unix seconds), and whether it has left since.
    seen: float
    left: bool = False


class Admission:
    """Which expendable tasks were let into the fronts of all queues that this process leads.

    ``interval`` is that of the ticks in seconds: a task that is shorter takes only its part of a slot until the next
    one, so that many short tasks are let in at a time.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._admitted: dict[str, _Admitted] = {}
        #: Since when nothing is let in (Unix seconds), for how long, and for how long the next time.
        self._paused, self._pause, self._next_pause = -math.inf, 0.0, FIRST_PAUSE

    def look(self, queue: str, pending: Container[str], now: float, runtimes: Mapping[str, float]) -> None:
        """Note which of those admitted are gone from the queue, and forget those that should have ended by ``now``.

        A task whose name has no learned runtime yet counts as running until one is known.
        """
        for task_id, each in list(self._admitted.items()):
            seen = each
            if each.queue == queue and not each.left:
                seen = replace(each, seen=now) if task_id in pending else replace(each, left=True)
                self._admitted[task_id] = seen
            if seen.left and not 0 <= now - seen.seen < runtimes.get(seen.name, math.inf):
                del self._admitted[task_id]

    def press(self, now: float, longest: float) -> None:
        """Stop letting tasks in for a while if any that were let in run: promised tasks wait although slots were left.

        Not every free slot serves at once: a worker may fetch its next task seconds later. So each pause is twice as
        long as the last one, up to ``longest`` (seconds).
        """
        if not self._pauses(now) and any(each.left for each in self._admitted.values()):
            self._paused, self._pause = now, self._next_pause
            self._next_pause = min(2 * self._pause, max(longest, FIRST_PAUSE))

    def settle(self) -> None:
        """Begin anew: nothing is held back any more."""
        self._paused, self._next_pause = -math.inf, FIRST_PAUSE

    def admit(
        self, queue: str, waiting: Iterable[PendingTask], slots: int, now: float, runtimes: Mapping[str, float]
    ) -> frozenset[str]:
        """Choose from ``waiting``, best first, as many as ``slots`` slots can run until the next tick.

        Those chosen at an earlier tick that still wait compete again.
        """
        if self._pauses(now):
            slots = 0
        self._admitted = {task_id: each for task_id, each in self._admitted.items() if each.left or each.queue != queue}
        busy = sum(self._share(each.name, runtimes) for each in self._admitted.values())
        chosen = []
        for task in waiting:
            if busy >= slots:
                break
            busy += self._share(task.name, runtimes)
            chosen.append(task.id)
            self._admitted[task.id] = _Admitted(queue, task.name, now)
        return frozenset(chosen)

    def _pauses(self, now: float) -> bool:
        return 0 <= now - self._paused < self._pause

    def _share(self, name: str, runtimes: Mapping[str, float]) -> float:
        return min(runtimes.get(name, math.inf) / self._interval, 1.0)
