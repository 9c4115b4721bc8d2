"""Scores that survive a broken policy. Pure, apart from what it remembers and logs.

A policy is the user's code: it may raise, or return something that is not a number from 0 to 1. Then the task keeps its
last valid score, or gets that of its present place if it has none, and the loop goes on.

Many tasks are scored at once. That is several times as fast, and gives the same scores to the last digit. What cannot
be scored so is scored task by task, and only that is complained of.

To score all that waits takes time in proportion. So of a long queue it is done at every second tick, or at every tenth
one if it is very long, and the scores stand for the ticks in between; those score only what is new, as of the moment at
which all were scored. So all scores are of one moment, and tasks that are alike have the same.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import compress
from math import isnan
from typing import Final, cast

from celery_dynprio.levels import Bands
from celery_dynprio.models import Context, Contribution, Level, PendingTask, Snapshot
from celery_dynprio.policies.ahead import Ahead, bind_known
from celery_dynprio.policies.base import BulkScorer, Policy, Scorer, is_number

#: The scores stand while the ticks since then have scored so many tasks each in the mean, and for so many seconds, and
#: while no more than this part of the tasks is new.
AT_ONCE: Final = 1000
STANDING: Final = 5.0
NEW: Final = 0.1

#: The score of a task without any valid score, if its place gives none either.
MIDDLE: Final = 0.5


class Places:
    """Scores a task by its present place, so that a policy broken from the start leaves the order as it is."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._scores: dict[str, float] | None = None

    def __call__(self, task: PendingTask) -> float:
        """Return the score in the middle of its level's band; 0 if it is in none."""
        if self._scores is None:  # most ticks never ask
            bands = Bands.equal(len(self._snapshot.levels))
            levels = enumerate(self._snapshot.levels)
            self._scores = {each.id: bands.middle(level) for level, tasks in levels for each in tasks}
        return self._scores.get(task.id, 0.0)


class _Once:
    """Complains of the first problem only."""

    def __init__(self, complain: Callable[[object], None]) -> None:
        self._complain = complain
        self._complained = False

    def __call__(self, problem: object) -> None:
        if not self._complained:
            self._complained = True
            self._complain(problem)


@dataclass(slots=True)
class _Moment:
    """One context, what scores tasks in it, and the scores of those that were scored at once."""

    context: Context
    scorer: BulkScorer
    #: By the identity of the task. The tasks are kept as well, so that no other one gets it.
    scores: dict[int, float] = field(default_factory=dict)
    tasks: list[PendingTask] = field(default_factory=list)
    #: Levels whose tasks all have such a score, by their identity, and their scores.
    levels: dict[int, tuple[Level, Sequence[float]]] = field(default_factory=dict)
    #: How many ticks it has lasted, and how many tasks are new since.
    ticks: int = 1
    new: int = 0

    def keep(self, tasks: Sequence[PendingTask], scores: Sequence[float]) -> None:
        """Keep the scores of these tasks."""
        self.scores.update(zip(map(id, tasks), scores, strict=True))
        self.tasks += tasks
        self.new += len(tasks)


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
        self._moment: _Moment | None = None

    def stand(self, pending: int, now: float) -> bool:
        """Tell whether the scores of the last context need not be found anew: see the top of this module."""
        moment = self._moment
        return (
            moment is not None
            and moment.ticks * AT_ONCE < pending
            and moment.new <= NEW * pending
            and 0 <= now - moment.context.now < STANDING
        )

    def bind(self, context: Context, fallback: Scorer = lambda _: MIDDLE) -> BulkScorer:
        """Return what scores tasks in this tick; it never raises, and its results are in [0, 1].

        ``fallback`` scores a task that has no valid score and never had one. Tasks that were scored at once in this
        very context, also in an earlier tick, keep their scores.
        """
        last, beat, fail = self._last, self._beat, _Once(self._complain)
        stand = partial(self._last_or, fallback)
        moment = self._enter(context, fail)
        if moment is None:
            return BulkScorer(stand, lambda tasks: list(map(stand, tasks)))
        known, one = moment.scores, moment.scorer.one

        def score(task: PendingTask) -> float:
            value = known.get(id(task))
            if value is not None:
                return value
            beat()
            try:
                value = float(one(task))  # of a number of any other type the planner might choke
                if 0.0 <= value <= 1.0:
                    last[task.ref] = value
                    return value
                fail(f"score {value!r} of task {task.name} is not between 0 and 1")
            except Exception as exc:  # noqa: BLE001 - the user's code may raise anything
                fail(exc)
            return stand(task)

        return BulkScorer(score, partial(self._score_all, moment, score))

    def _last_or(self, fallback: Scorer, task: PendingTask) -> float:
        value = self._last.get(task.ref)
        return fallback(task) if value is None else value

    def _score_all(self, moment: _Moment, score: Scorer, tasks: Sequence[PendingTask]) -> Sequence[float]:
        """Return the scores of these tasks: those that are known, and of the others what is found at once."""
        if id(tasks) in moment.levels:
            return moment.levels[id(tasks)][1]
        found = list(map(moment.scores.get, map(id, tasks)))
        if None not in found:
            if isinstance(tasks, Level):
                moment.levels[id(tasks)] = tasks, cast("list[float]", found)
            return cast("list[float]", found)
        new = [index for index, value in enumerate(found) if value is None]
        moment.keep(*self._score_at_once(moment, [tasks[index] for index in new]))
        for index in new:
            found[index] = score(tasks[index])
        return cast("list[float]", found)

    def _enter(self, context: Context, fail: Callable[[object], None]) -> _Moment | None:
        """Return what is known of this context; None if the policy cannot be bound to it."""
        moment = self._moment
        if moment is not None and moment.context is context:
            moment.ticks += 1
            return moment
        self._moment = None
        try:
            moment = _Moment(context, bind_known(self._policy, context, self._beat))
        except Exception as exc:  # noqa: BLE001 - the user's code may raise anything
            fail(exc)
            return None
        if isinstance(context.ahead, Ahead):
            moment.keep(*self._score_at_once(moment, context.ahead.tasks))
            moment.new = 0
        self._moment = moment
        return moment

    def _score_at_once(
        self, moment: _Moment, tasks: Sequence[PendingTask]
    ) -> tuple[Sequence[PendingTask], Sequence[float]]:
        """Return those of these tasks that have valid scores, and the scores."""
        with suppress(Exception):  # the user's code may raise anything; then each task is scored for itself
            scores = list(map(float, moment.scorer.all(tasks)))
            if len(scores) == len(tasks):
                if scores and not (min(scores) >= 0.0 and max(scores) <= 1.0 and not isnan(sum(scores))):
                    valid = [0.0 <= value <= 1.0 for value in scores]
                    tasks, scores = list(compress(tasks, valid)), list(compress(scores, valid))
                self._last.update(zip([task.id + task.copy for task in tasks], scores, strict=True))
                return tasks, scores
        return (), ()

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

    def renew(self, tasks: Sequence[PendingTask], score: Scorer) -> Sequence[float]:
        """Score tasks to remember it; return their last valid scores, 0 for a task that never had one.

        ``score`` is what :meth:`bind` returned last.
        """
        valid, scores = self._score_at_once(self._moment, tasks) if self._moment else ((), ())
        if len(valid) == len(tasks):
            return scores
        done = {task.ref for task in valid}
        for task in tasks:
            if task.ref not in done:
                score(task)
        return self.last_of([task.ref for task in tasks])

    def unknown(self, refs: Iterable[str]) -> Sequence[str]:
        """Return those of these tasks, by ``PendingTask.ref``, of which no score is remembered."""
        last = self._last
        return [ref for ref in refs if ref not in last]

    def last_of(self, refs: Iterable[str]) -> Sequence[float]:
        """Return the scores that are remembered of the tasks of these names; 0 for a task without any."""
        last = self._last.get
        return [last(ref, 0.0) for ref in refs]

    def prune(self, front: Callable[[], Container[str]], overflow: Container[str], known: int) -> None:
        """Forget tasks that are in neither of these, once more than twice ``known`` tasks are remembered.

        Both are by ``PendingTask.ref``; ``front`` is called only then.
        """
        if len(self._last) > 2 * known + 1000:
            ids = front()
            gone = [task_id for task_id in self._last if task_id not in ids and task_id not in overflow]
            for task_id in gone:
                del self._last[task_id]
