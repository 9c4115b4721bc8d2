"""What goes before a pending task: the tasks of its key in their order, and the seconds these are charged. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate

from celery_dynprio.models import Context, PendingTask
from celery_dynprio.policies.base import BulkScorer, Policy, Scorer, add_terms
from celery_dynprio.policies.charges import Charge, charge


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
        self._tasks: Sequence[PendingTask] = ()
        self._rests: Sequence[float] = ()
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

    def scores(self, tasks: Sequence[PendingTask]) -> Sequence[float]:
        """Return a number for each task, the higher the sooner; the lowest for one that the policy cannot score."""
        found = add_terms(self._rest_of_all(tasks), self._asking, tasks, self._beat)
        return [value if value == value else -math.inf for value in found]  # noqa: PLR0124 - NaN is not

    @property
    def rest(self) -> BulkScorer:
        """The sum of the terms that do not ask what is ahead of a task."""
        return BulkScorer(self._rest_of, self._rest_of_all)

    def _rest_of(self, task: PendingTask) -> float:
        value = 0.0
        for weight, scorer in self._rest:
            value += weight * scorer(task)
        return value

    def _rest_of_all(self, tasks: Sequence[PendingTask]) -> Sequence[float]:
        if tasks is not self._tasks:
            self._rests = add_terms([0.0] * len(tasks), self._rest, tasks, self._beat)
            self._tasks = tasks
        return self._rests


def bind_known(policy: Policy, context: Context, beat: Callable[[], object] = lambda: None) -> BulkScorer:
    """Return :meth:`~celery_dynprio.Policy.bind`, which asks no factor again for what was asked to sort the tasks."""
    if isinstance(context.ahead, Ahead) and any(factor.asks_ahead for _, factor in policy.terms):
        alone = context.ahead.alone
        if alone.policy is policy and alone.is_whole:
            return policy.bind(context, alone.rest, beat)
    return policy.bind(context, None, beat)


def ahead_of_all(tasks: Sequence[PendingTask], context: Context) -> Sequence[float]:
    """Return what is ahead of each of these tasks, as a context's :attr:`~celery_dynprio.Context.ahead` tells it."""
    ahead = context.ahead
    return ahead.all(tasks) if isinstance(ahead, Ahead) else list(map(ahead, tasks))


class Ahead:
    """How many seconds of the same key go before a pending task: :attr:`~celery_dynprio.Context.ahead`.

    ``tasks`` are all that compete for the same workers: those of one queue. Within a key they go by their score
    ``alone`` (the highest first; of equals the oldest), so that no task is charged for siblings that are less urgent. A
    task that is not among them comes after all of its key. Sorts once, when it is first asked.
    """

    def __init__(self, tasks: Iterable[PendingTask], alone: Alone, seconds: Charge) -> None:
        #: All of them.
        self.tasks = list(tasks)
        #: Where the first task of each key is among them, and those of keys with several: of many keys, most have one.
        self._first: dict[str, int] = {}
        self._several: dict[str, list[int]] = {}
        first, several = self._first, self._several
        for index, task in enumerate(self.tasks):
            key = task.key or ""
            if key not in first:
                first[key] = index
            elif key in several:
                several[key].append(index)
            else:
                several[key] = [first[key], index]
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

    def all(self, tasks: Sequence[PendingTask]) -> Sequence[float]:
        """Return the seconds that go before each of many tasks."""
        before = self._sum_up() if self._before is None else self._before
        return [before[task.id] if task.id in before else self(task) for task in tasks]

    def _all_of(self, key: str) -> float:
        total = self._totals.get(key)
        if total is None:
            total = self._totals[key] = self._seconds(self.tasks[self._first[key]]) if key in self._first else 0.0
        return total

    def _sum_up(self) -> dict[str, float]:
        tasks, scores = self.tasks, self.alone.scores(self.tasks)
        before = self._before = {tasks[index].id: 0.0 for index in self._first.values()}
        published = [task.published for task in tasks]
        for key, siblings in self._several.items():
            siblings.sort(key=published.__getitem__)
            siblings.sort(key=scores.__getitem__, reverse=True)
            names = [tasks[index].name for index in siblings]
            by_name = {
                name: self._seconds(tasks[index]) for name, index in dict(zip(names, siblings, strict=True)).items()
            }
            *seconds, self._totals[key] = accumulate([by_name[name] for name in names], initial=0.0)
            before.update(zip([tasks[index].id for index in siblings], seconds, strict=True))
        return before
