"""What goes before a pending task: the tasks of its key in their order, and the seconds these are charged. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from celery_dynprio.models import Context, PendingTask
from celery_dynprio.policies.base import BulkScorer, Policy, Scorer, add_terms
from celery_dynprio.policies.charges import Charges


def with_pending(
    context: Context, pending: Iterable[PendingTask], policy: Policy, beat: Callable[[], object] = lambda: None
) -> Context:
    """Return the context with what these tasks, all that wait in one queue, add to it.

    ``beat`` is called before each of them is scored to put those of a key in order, as a sign of life.
    """
    ahead = Ahead(pending, Alone(policy, context, beat), Charges(context))
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


def ahead_of_all(tasks: Sequence[PendingTask], context: Context) -> tuple[Sequence[float], Sequence[str]]:
    """Return the seconds that a context tells to be ahead of each of these tasks, and the keys of these."""
    ahead = context.ahead
    if isinstance(ahead, Ahead) and tasks is ahead.tasks:
        return ahead.of_all(), ahead.keys_of_all
    keys = [task.key or "" for task in tasks]
    return ahead.of_some(tasks, keys) if isinstance(ahead, Ahead) else list(map(ahead, tasks)), keys


class Ahead:
    """How many seconds of the same key go before a pending task: :attr:`~celery_dynprio.Context.ahead`.

    ``tasks`` are all that compete for the same workers: those of one queue. Within a key they go by their score
    ``alone`` (the highest first; of equals the oldest), so that no task is charged for siblings that are less urgent. A
    task that is not among them comes after all of its key. Sorts once, when it is first asked.
    """

    def __init__(self, tasks: Iterable[PendingTask], alone: Alone, charges: Charges) -> None:
        #: All of them, and the key of each.
        self.tasks = list(tasks)
        self.keys_of_all = [task.key or "" for task in self.tasks]
        self.alone = alone
        self._charges = charges
        #: What goes before each of the tasks; and what the tasks of each key are charged.
        self._before: Sequence[float] | None = None
        self._totals = dict.fromkeys(self.keys_of_all, 0.0)
        self._by_id: Mapping[str, float] | None = None

    @property
    def keys(self) -> Collection[str]:
        """The keys of these tasks."""
        return self._totals.keys()

    @property
    def totals(self) -> Mapping[str, float]:
        """What the tasks of each key are charged, in seconds; empty until a factor has asked."""
        return {} if self._before is None else self._totals

    def __call__(self, task: PendingTask) -> float:
        """Return the seconds that go before a task."""
        before = self._before_by_id().get(task.id)
        return self._totals.get(task.key or "", 0.0) if before is None else before

    def of_some(self, tasks: Sequence[PendingTask], keys: Sequence[str]) -> Sequence[float]:
        """Return the seconds that go before each of many tasks, of which these are the keys."""
        before, total = self._before_by_id().get, self._totals.get
        found = [before(task.id) for task in tasks]
        return [total(key, 0.0) if value is None else value for key, value in zip(keys, found, strict=True)]

    def of_all(self) -> Sequence[float]:
        """Return the seconds that go before each of the tasks."""
        if self._before is None:
            self._before = self._sum_up()
        return self._before

    def _before_by_id(self) -> Mapping[str, float]:
        if self._by_id is None:
            ids = [each.id for each in reversed(self.tasks)]  # of two with one id the first counts
            self._by_id = dict(zip(ids, reversed(self.of_all()), strict=True))
        return self._by_id

    def _sum_up(self) -> Sequence[float]:
        tasks, keys, totals = self.tasks, self.keys_of_all, self._totals
        scores, seconds = self.alone.scores(tasks), self._charges.all(tasks)
        published = [task.published for task in tasks]
        order = sorted(range(len(tasks)), key=published.__getitem__)
        order.sort(key=scores.__getitem__, reverse=True)
        before = [0.0] * len(tasks)
        for index in order:
            key = keys[index]
            total = before[index] = totals[key]
            totals[key] = total + seconds[index]
        return before
