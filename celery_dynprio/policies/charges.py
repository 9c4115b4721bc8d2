"""What the tasks of a key are charged: the expected seconds of those that run, and of those that go before one. Pure.

In fair queueing a flow is charged for a packet as soon as it is sent, not when it has arrived; otherwise a flow that
sends much at once is not noticed until it is too late. So it is here with keys, tasks and their runtimes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from operator import attrgetter
from typing import Final, TypeAlias

from celery_dynprio.models import Context, PendingTask, RunningTask
from celery_dynprio.policies.base import Policy, Scorer
from celery_dynprio.runtimes import Named

#: What a task is charged at least, in seconds, if nothing is known of its key or at all.
CAUTIOUS: Final = 10.0

#: From a task to the seconds that its key is charged for it.
Charge: TypeAlias = Callable[[Named], float]

_published: Final = attrgetter("published")


def usual_use(context: Context) -> float:
    """Return the mean use of a key in seconds, what runs now included; 0 if none is known."""
    keys = {*context.use, *context.running}
    return (sum(context.use.values()) + sum(context.running.values())) / len(keys) if keys else 0.0


def charge(context: Context) -> Charge:
    """Return what each task is charged: its expected runtime.

    Of a key without any ended run nobody knows how long its tasks take, whatever those of others did. Until the first
    one has ended, each counts as much as other keys have used lately: so the first one goes at once, and a flood of
    long tasks behind it does not take every slot before its length is known.
    """
    expected, use = context.runtimes.expected, context.use
    cautious = max(usual_use(context), CAUTIOUS)

    def seconds(task: Named) -> float:
        estimate = expected(task)
        if estimate is None:
            return cautious
        return estimate.mean if (task.key or "") in use else max(estimate.mean, cautious)

    return seconds


def charged(running: Iterable[RunningTask], context: Context) -> Mapping[str, float]:
    """Return what runs now in seconds by key: each run as it is charged, or as long as it has taken if that is more."""
    seconds, now = charge(context), context.now
    totals: defaultdict[str, float] = defaultdict(float)
    for each in running:
        totals[each.key] += max(seconds(each), now - each.started)
    return totals


def with_pending(
    context: Context, pending: Iterable[PendingTask], policy: Policy, beat: Callable[[], object] = lambda: None
) -> Context:
    """Return the context with what these tasks, all that wait in one queue, add to it.

    Within a key they are in the order that the policy gives them if each were the only one. ``beat`` is called before
    each of them is scored for that, as a sign of life.
    """
    ahead = Ahead(pending, _alone(policy, context, beat), charge(context))
    return replace(context, ahead=ahead, pending_keys=ahead.keys)


def _alone(policy: Policy, context: Context, beat: Callable[[], object]) -> Scorer:
    """Score each task as if no other were pending; one that the policy cannot score comes last of its key."""

    def score(task: PendingTask) -> float:
        beat()
        try:
            value = float(bound(task))
        except Exception:  # noqa: BLE001 - the user's code may raise anything, and will be told of it when it scores
            return 0.0
        return max(value, 0.0)  # also if it is no number

    try:
        bound = policy.bind(context)
    except Exception:  # noqa: BLE001 - as above
        return lambda _: 0.0
    return score


class Ahead:
    """How many seconds of the same key go before a pending task: :attr:`~celery_dynprio.Context.ahead`.

    ``tasks`` are all that compete for the same workers: those of one queue. Within a key they go by ``score`` (the
    highest first; of equals the oldest), so that no task is charged for siblings that are less urgent. A task that is
    not among them comes after all of its key. Sorts once, when it is first asked.
    """

    def __init__(self, tasks: Iterable[PendingTask], score: Callable[[PendingTask], float], seconds: Charge) -> None:
        self._by_key: dict[str, list[PendingTask]] = {}
        for task in tasks:
            key = task.key or ""
            siblings = self._by_key.get(key)
            if siblings is None:
                siblings = self._by_key[key] = []
            siblings.append(task)
        self._score = score
        self._seconds = seconds
        self._before: dict[str, float] | None = None
        self._totals: dict[str, float] = {}

    @property
    def keys(self) -> Collection[str]:
        """The keys of these tasks."""
        return self._by_key.keys()

    @property
    def totals(self) -> Mapping[str, float]:
        """What all of these tasks are charged, in seconds by key; empty as long as no factor asked what goes before."""
        return self._totals

    def __call__(self, task: PendingTask) -> float:
        """Return the seconds that go before a task."""
        before = self._sum_up().get(task.id)
        return self._totals.get(task.key or "", 0.0) if before is None else before

    def _sum_up(self) -> dict[str, float]:
        if self._before is None:
            self._before = {}
            seconds = self._seconds
            for key, siblings in self._by_key.items():
                total = 0.0
                for task in self._sorted(siblings) if len(siblings) > 1 else siblings:
                    self._before[task.id] = total
                    total += seconds(task)
                self._totals[key] = total
        return self._before

    def _sorted(self, siblings: list[PendingTask]) -> Iterable[PendingTask]:
        siblings.sort(key=_published)
        scores = [-self._score(task) for task in siblings]
        return map(siblings.__getitem__, sorted(range(len(siblings)), key=scores.__getitem__))
