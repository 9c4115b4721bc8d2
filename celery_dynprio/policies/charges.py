"""What a key is charged for its tasks: the seconds that each is expected to run. Pure.

In fair queueing a flow is charged for a packet as soon as it is sent, not when it has arrived; otherwise a flow that
sends much at once is not noticed until it is too late. So it is here with keys, tasks and their runtimes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Final, TypeAlias

from celery_dynprio.models import Context, RunningTask
from celery_dynprio.runtimes import Named

#: What a task is charged at least, in seconds, if nothing is known of its key or at all.
CAUTIOUS: Final = 10.0


def usual_use(context: Context) -> float:
    """Return the mean use of a key in seconds, what runs now included; 0 if none is known."""
    use, running = context.use, context.running
    keys = len(use) + sum(key not in use for key in running)
    return (sum(use.values()) + sum(running.values())) / keys if keys else 0.0


#: From a task to the seconds that its key is charged for it.
Charge: TypeAlias = Callable[[Named], float]


class Charges:
    """What each task is charged, in seconds: its expected runtime.

    Of a key without any ended run nobody knows how long its tasks take, whatever those of others did. Until the first
    one has ended, each counts as much as other keys have used lately: so the first one goes at once, and a flood of
    long tasks behind it does not take every slot before its length is known.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._runtimes, self._use = context.runtimes, context.use

    def __call__(self, task: Named) -> float:
        """Return the seconds of one task."""
        expected = self._runtimes.mean(task)
        if expected is not None and (task.key or "") in self._use:
            return expected
        return self._cautious if expected is None else max(expected, self._cautious)

    def all(self, tasks: Sequence[Named]) -> Sequence[float]:
        """Return the seconds of each of many tasks."""
        use, cautious = self._use, self._cautious
        return [
            cautious if mean is None or (mean < cautious and (task.key or "") not in use) else mean
            for task, mean in zip(tasks, self._runtimes.means(tasks), strict=True)
        ]

    @cached_property
    def _cautious(self) -> float:
        return max(usual_use(self._context), CAUTIOUS)


def charged(running: Iterable[RunningTask], context: Context) -> Mapping[str, float]:
    """Return what runs now in seconds by key: each run as it is charged, or as long as it has taken if that is more."""
    seconds, now = Charges(context), context.now
    totals: defaultdict[str, float] = defaultdict(float)
    for each in running:
        totals[each.key] += max(seconds(each), now - each.started)
    return totals
