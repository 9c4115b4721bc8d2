"""What the tasks of a key are charged: the expected seconds of those that run, and of those that go before one. Pure.

In fair queueing a flow is charged for a packet as soon as it is sent, not when it has arrived; otherwise a flow that
sends much at once is not noticed until it is too late. So it is here with keys, tasks and their runtimes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
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

    ``beat`` is called before each of them is scored to put those of a key in order, as a sign of life.
    """
    ahead = Ahead(pending, Alone(policy, context, beat), charge(context))
    return replace(context, ahead=ahead, pending_keys=ahead.keys)


class Alone:
    """How the tasks of one key are ordered: as a policy scores them if each were the only one pending.

    What the terms say that do not ask what is ahead is kept, so that they need not be asked again.
    """

    def __init__(self, policy: Policy, context: Context, beat: Callable[[], object] = lambda: None) -> None:
        self.policy = policy
        self._beat = beat
        self._known: dict[str, float] = {}
        self._rest: list[tuple[float, Scorer]] = []
        self._asking: list[tuple[float, Scorer]] = []
        #: Whether each factor could be bound.
        self.is_whole = False
        with suppress(Exception):  # the user's code may raise anything, and will do so again when it is to score
            for weight, factor in policy.terms:
                if not factor.asks_ahead:
                    self._rest.append((weight, factor.bind(context)))
                elif not factor.alike_in_key:
                    self._asking.append((weight, factor.bind(context)))
            self.is_whole = True

    def scores(self, tasks: Iterable[PendingTask]) -> list[float]:
        """Return a number for each task, the higher the sooner; the lowest for one that the policy cannot score."""
        found, beat, known, asking = [], self._beat, self._known, self._asking
        for task in tasks:
            beat()
            try:
                value = known[task.id] = self.sum_up(task)
                for weight, scorer in asking:
                    value += weight * scorer(task)
            except Exception:  # noqa: BLE001 - as above
                value = -math.inf
            found.append(value)
        return found

    def rest(self, task: PendingTask) -> float:
        """Return the sum of the terms that do not ask what is ahead of a task."""
        known = None if task.copy else self._known.get(task.id)
        return self.sum_up(task) if known is None else known

    def sum_up(self, task: PendingTask) -> float:
        """Return the same, and ask again."""
        value = 0.0
        for weight, scorer in self._rest:
            value += weight * scorer(task)
        return value


def bind_known(policy: Policy, context: Context) -> Scorer:
    """Return :meth:`~celery_dynprio.Policy.bind`, which asks no factor again for what was asked to sort the tasks."""
    if isinstance(context.ahead, Ahead) and any(factor.asks_ahead for _, factor in policy.terms):
        alone = context.ahead.alone
        if alone.policy is policy and alone.is_whole:
            return policy.bind(context, alone.rest)
    return policy.bind(context)


class Ahead:
    """How many seconds of the same key go before a pending task: :attr:`~celery_dynprio.Context.ahead`.

    ``tasks`` are all that compete for the same workers: those of one queue. Within a key they go by their score
    ``alone`` (the highest first; of equals the oldest), so that no task is charged for siblings that are less urgent. A
    task that is not among them comes after all of its key. Sorts once, when it is first asked.
    """

    def __init__(self, tasks: Iterable[PendingTask], alone: Alone, seconds: Charge) -> None:
        #: The first task of each key, and those of keys with several: of many keys, most have one.
        self._first: dict[str, PendingTask] = {}
        self._several: dict[str, list[PendingTask]] = {}
        for task in tasks:
            key = task.key or ""
            first = self._first.setdefault(key, task)
            if first is not task:
                siblings = self._several.get(key)
                if siblings is None:
                    self._several[key] = [first, task]
                else:
                    siblings.append(task)
        self.alone = alone
        self._seconds = seconds
        self._before: dict[str, float] | None = None
        self._totals: dict[str, float] = {}

    @property
    def keys(self) -> Collection[str]:
        """The keys of these tasks."""
        return self._first.keys()

    @property
    def totals(self) -> Mapping[str, float]:
        """What the tasks of each key are charged, in seconds, of keys with several; empty until a factor has asked."""
        return self._totals

    def __call__(self, task: PendingTask) -> float:
        """Return the seconds that go before a task."""
        before = (self._sum_up() if self._before is None else self._before).get(task.id)
        return self._all_of(task.key or "") if before is None else before

    def _all_of(self, key: str) -> float:
        total = self._totals.get(key)
        if total is None:
            total = self._totals[key] = self._seconds(self._first[key]) if key in self._first else 0.0
        return total

    def _sum_up(self) -> dict[str, float]:
        before = self._before = {task.id: 0.0 for task in self._first.values()}
        for key, siblings in self._several.items():
            total, by_name = 0.0, dict[str, float]()
            for task in self._sorted(siblings):
                before[task.id] = total
                seconds = by_name.get(task.name)
                if seconds is None:
                    seconds = by_name[task.name] = self._seconds(task)
                total += seconds
            self._totals[key] = total
        return before

    def _sorted(self, siblings: list[PendingTask]) -> Iterable[PendingTask]:
        siblings.sort(key=_published)
        scores = self.alone.scores(siblings)
        return map(siblings.__getitem__, sorted(range(len(siblings)), key=scores.__getitem__, reverse=True))
