"""How long a queue takes to work off what waits, as seen from what leaves it, and how long a task may wait. Pure.

First in, first out, a task waits as long as the work before it takes. So whoever has waited for longer than the queue
took lately to work off all of it would have run by now in a plain queue, and counts as starving, however little the
policy cares for it. In an idle system that is soon, in a deep backlog late: no fixed number of seconds suits both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import chain
from operator import attrgetter
from typing import Final

from celery_dynprio.engine.starvation import Credit
from celery_dynprio.models import PendingTask, RunningTask, Snapshot
from celery_dynprio.runtimes import Runtimes

#: Seconds in which what was seen of the pace loses half of its weight.
PACE_HALF_LIFE: Final = 30.0

#: Seconds in which the longest time that it took to work off all loses half of its weight.
PEAK_HALF_LIFE: Final = 600.0

#: A task starves when it has waited so many times as long as it took lately to work off all that waits.
PATIENCE: Final = 1.05

#: Seconds for which any task may be made to wait.
SHORTEST_PATIENCE: Final = 30.0

#: The seconds that a task is taken to run while no runtime was learned at all.
UNKNOWN_RUNTIME: Final = 1.0

#: So many names of tasks are remembered.
MOST_NAMES: Final = 10_000

_id: Final = attrgetter("id")


class Drain:
    """Follows one queue from tick to tick."""

    def __init__(self) -> None:
        self._at: float | None = None
        self._waited = False
        #: Seconds between the last two ticks, if something waited at both.
        self._gap = 0.0
        #: Decayed sums of the spans in which something waited all the time, and of the work and the tasks that left.
        self._span = self._work = self._tasks = 0.0
        self._peak = 0.0
        #: What starving tasks may have of the work.
        self.credit = Credit()
        #: The expected seconds of each task that was lifted at the last tick, or before, because it starves.
        self._lifted: dict[str, float] = {}
        #: The levels at the last tick, and the expected seconds of each task that was in them, by these runtimes.
        self._levels: Sequence[Sequence[PendingTask]] = ()
        self._front: dict[str, float] = {}
        self._runtimes: Runtimes | None = None
        #: The names of all tasks lately.
        self._names: set[str] = set()

    def follow(self, snapshot: Snapshot, runtimes: Runtimes, running: Iterable[RunningTask], now: float) -> None:
        """Take in a tick over this queue ``now`` (Unix seconds), with all that runs anywhere."""
        if len(self._names) > MOST_NAMES:
            self._names.clear()
        gone, came = _between(self._levels, snapshot.levels)
        self._levels = snapshot.levels
        took = {task_id: self._front.pop(task_id) for task_id in gone & self._front.keys()}
        left = [seconds for task_id, seconds in took.items() if task_id not in snapshot.overflow]
        if runtimes is not self._runtimes:  # more may be known of all of them
            self._runtimes, came = runtimes, list(chain.from_iterable(snapshot.levels))
        self._add(came, runtimes)
        waiting = math.fsum(self._front.values())
        if self._front:  # the others take as long
            waiting *= max((sum(snapshot.depths) + snapshot.overflow_depth) / len(self._front), 1.0)
        busy = sum(run.name in self._names for run in running)
        self.note(waiting, math.fsum(left), len(left), now, busy)
        went = self._lifted.keys() - self._front.keys() - snapshot.overflow.keys()
        self.credit.spend(math.fsum(self._lifted[task_id] for task_id in went))
        self._lifted = {}

    def note_lifted(self, tasks: Iterable[PendingTask]) -> None:
        """Note which tasks go before others because they starve: those that leave until the next tick count."""
        self._lifted = {task.id: self.seconds(task) for task in tasks}

    def seconds(self, task: PendingTask) -> float:
        """Return the expected seconds of a task."""
        known = self._front.get(task.id)
        if known is not None:
            return known
        (found,) = self._runtimes.means([task]) if self._runtimes is not None else (None,)
        return found or UNKNOWN_RUNTIME

    def _add(self, tasks: Sequence[PendingTask], runtimes: Runtimes) -> None:
        """Note the expected seconds of these tasks."""
        expected = [seconds or UNKNOWN_RUNTIME for seconds in runtimes.means(tasks)]
        self._front.update(zip([task.id for task in tasks], expected, strict=True))
        self._names.update([task.name for task in tasks])

    def note(self, waiting: float, left: float, tasks: int, now: float, busy: int = 0) -> None:
        """Take in a tick: the expected seconds of all that waits, and those of the ``tasks`` that left since the last.

        ``now`` is in Unix seconds. Only while something waits does it show what the workers can do. What came and left
        between two ticks was not seen, and short runs are not told of; so they do as much as the larger of the work
        that left and of the tasks that run, ``busy``.
        """
        at, self._at = self._at, now
        waited, self._waited = self._waited, waiting > 0
        self._gap = 0.0
        if at is None or now <= at:
            return
        span = now - at
        if waited and waiting:
            self._gap = span
            rest = 2.0 ** (-span / PACE_HALF_LIFE)
            self._span = self._span * rest + span
            work = max(left, busy * span)
            self._work = self._work * rest + work
            self.credit.earn(work, self._work / self._span, span)
            self._tasks = self._tasks * rest + tasks
        takes = waiting * self._span / self._work if self._work > 0 else 0.0
        self._peak = max(takes, self._peak * 2.0 ** (-span / PEAK_HALF_LIFE))

    def patience(self, longest: float | None) -> float | None:
        """Return the seconds after which a task starves: at most ``longest``, as the policy says; None: none does."""
        if longest is None or not self._peak:
            return longest
        return min(longest, max(PATIENCE * self._peak, SHORTEST_PATIENCE))

    def soon(self, seconds: float) -> int:
        """Return how many tasks leave within so many seconds, or until the next tick if that is later."""
        return self.tasks(max(seconds, self._gap))

    def tasks(self, seconds: float) -> int:
        """Return how many tasks leave within so many seconds."""
        return math.ceil(self._tasks / self._span * seconds) if self._span else 0


def _between(
    before: Sequence[Sequence[PendingTask]], after: Sequence[Sequence[PendingTask]]
) -> tuple[set[str], list[PendingTask]]:
    """Return the ids of the tasks that left the front between two reads, and those that came.

    Levels in which nothing changed are the same objects.
    """
    same = set(map(id, before)) & set(map(id, after))
    earlier = {task.id for tasks in before if id(tasks) not in same for task in tasks}
    later = [task for tasks in after if id(tasks) not in same for task in tasks]
    return earlier.difference(map(_id, later)), [task for task in later if task.id not in earlier]
