"""Scores that survive a broken policy. Pure, apart from what it remembers and logs.

A policy is the user's code: it may raise, or return something that is not a number from 0 to 1. Then the task keeps its
last valid score, or gets that of its present place if it has none, and the loop goes on.

The pending tasks that a context knows are scored all at once. That is several times as fast, and gives the same scores
to the last digit. What cannot be scored so is scored task by task, and only that is complained of.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from operator import attrgetter
from typing import Final

from celery_dynprio.models import Context, Contribution, PendingTask
from celery_dynprio.policies.ahead import Ahead, bind_known
from celery_dynprio.policies.base import BulkScorer, Policy, Scorer, is_number

_published: Final = attrgetter("published")

#: The score of a task without any valid score, if its place gives none either.
MIDDLE: Final = 0.5


class _Once:
    """Complains of the first problem only."""

    def __init__(self, complain: Callable[[object], None]) -> None:
        self._complain = complain
        self._complained = False

    def __call__(self, problem: object) -> None:
        if not self._complained:
            self._complained = True
            self._complain(problem)


class Scores:
    """The score of each task by the policy, or its last valid one.

    ``complain`` is called with the exception or a text, once in each tick in which the policy failed. ``beat`` is
    called before each task that a slow policy may be asked for, as a sign of life.
    """

    def __init__(
        self, policy: Policy, complain: Callable[[object], None], beat: Callable[[], object] = lambda: None
    ) -> None:
        self._policy = policy
        self._complain = complain
        self._beat = beat
        self._last: dict[str, float] = {}
        self._rota: Iterator[str] = iter(())

    def bind(self, context: Context, fallback: Scorer = lambda _: MIDDLE) -> Scorer:
        """Return the function that scores tasks in this tick; it never raises, and its result is in [0, 1].

        ``fallback`` scores a task that has no valid score and never had one.
        """
        last, beat, fail = self._last, self._beat, _Once(self._complain)

        def stand(task: PendingTask) -> float:
            known = last.get(task.id)
            return fallback(task) if known is None else known

        try:
            fresh = bind_known(self._policy, context, beat)
        except Exception as exc:  # noqa: BLE001 - the user's code may raise anything
            fail(exc)
            return stand
        valid = self._score_all(fresh, context.ahead.tasks) if isinstance(context.ahead, Ahead) else {}
        one = fresh.one

        def score(task: PendingTask) -> float:
            known = valid.get(task.id + task.copy)
            if known is not None:
                return known
            beat()
            try:
                value = float(one(task))  # of a number of any other type the planner might choke
                if 0.0 <= value <= 1.0:
                    last[task.id] = value
                    return value
                fail(f"score {value!r} of task {task.name} is not between 0 and 1")
            except Exception as exc:  # noqa: BLE001 - the user's code may raise anything
                fail(exc)
            return stand(task)

        return score

    def _score_all(self, fresh: BulkScorer, tasks: Sequence[PendingTask]) -> Mapping[str, float]:
        """Return the valid scores of these tasks by ref; of equal refs that of the first."""
        with suppress(Exception):  # the user's code may raise anything; then each task is scored for itself
            pairs = zip(reversed(tasks), reversed(fresh.all(tasks)), strict=True)
            found = {task.id + task.copy: float(value) for task, value in pairs if 0.0 <= value <= 1.0}
            self._last.update(found)
            return found
        return {}

    def explain(self, task: PendingTask, context: Context) -> Sequence[Contribution]:
        """Return what each factor adds to a task's score; nothing if it is pinned, or if the policy fails."""
        if task.pinned is not None:
            return ()
        try:
            return self._policy.explain(task, context)
        except Exception as exc:  # noqa: BLE001 - the user's code may raise anything
            self._complain(exc)
            return ()

    def patience(self) -> float | None:
        """Return the policy's patience (seconds); None, so that no task counts as starving, if it is not a number."""
        try:
            patience = self._policy.patience
            if patience is None or is_number(patience):
                return patience
            self._complain(f"patience {patience!r} is neither a number of seconds nor None")
        except Exception as exc:  # noqa: BLE001 - the user's code may raise anything
            self._complain(exc)
        return None

    def candidates(self, overflow: Mapping[str, PendingTask], score: Scorer, limit: int) -> Mapping[str, PendingTask]:
        """Choose the ``limit`` tasks of a long overflow with the best scores (of equals the oldest), in bounded time.

        Scoring a million tasks takes seconds. So each tick scores the tasks without a score and a slice of the others,
        in rotation; the rest count with their last score. The oldest task is always chosen, because it may be starving.
        """
        if len(overflow) <= limit:
            return overflow
        for task_id in self._turn(overflow, 5 * limit):
            score(overflow[task_id])
        last = self._last.get
        known = [last(task_id, 0.0) for task_id in overflow]
        least = heapq.nlargest(limit, known)[-1]
        tasks = overflow.values()
        above = [task for task, value in zip(tasks, known, strict=True) if value > least]
        equal = (task for task, value in zip(tasks, known, strict=True) if value == least)
        chosen = [*above, *heapq.nsmallest(limit - len(above), equal, key=_published), min(tasks, key=_published)]
        return {task.id: task for task in chosen}

    def prune(self, front: Callable[[], Container[str]], overflow: Container[str], known: int) -> None:
        """Forget tasks that are in neither of these (ids), once more than twice ``known`` tasks are remembered.

        ``front`` is called only then.
        """
        if len(self._last) > 2 * known + 1000:
            ids = front()
            gone = [task_id for task_id in self._last if task_id not in ids and task_id not in overflow]
            for task_id in gone:
                del self._last[task_id]

    def _turn(self, overflow: Mapping[str, PendingTask], size: int) -> list[str]:
        turn = list(islice((task_id for task_id in overflow if task_id not in self._last), size))
        again = list(islice(self._rota, size - len(turn)))
        if not again:
            self._rota = iter(list(overflow))
        return turn + [task_id for task_id in again if task_id in overflow]
