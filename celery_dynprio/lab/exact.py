"""Exact score order at each start: the best that any number of levels and moves could reach under a policy.

What was learned counts as of the last tick, as for the planner; time goes on with each start.

Scoring all that waits at each start would take minutes for a long recording. Two facts about the factors of this
package spare most of it. Of tasks that differ in nothing but their age, the oldest has the highest score: so one of
each such group is looked at. And between two ticks a score grows by no more than a known rate: so a score of a moment
ago bounds the one of now, and only tasks whose bound reaches the best score are scored again. With a gauge, or a factor
of the user's own, neither is known, and every task is scored at each start. Tasks that lose their urgency once they are
late are looked at one by one.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict, deque
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Final

from celery_dynprio.engine.drain import Drain
from celery_dynprio.engine.scores import Scores
from celery_dynprio.engine.starvation import is_near_deadline
from celery_dynprio.lab.jobs import Job
from celery_dynprio.lab.learning import Learning
from celery_dynprio.levels import Bands
from celery_dynprio.models import Context, PendingTask
from celery_dynprio.policies import (
    Age,
    Deadline,
    Dependents,
    Factor,
    FairShare,
    Max,
    Min,
    Policy,
    Scorer,
    ShortestFirst,
    Weight,
)
from celery_dynprio.policies.charges import Charges

#: More than what rounding may add to a score.
_ROUNDING: Final = 1e-9

_TIMELESS: Final = (Weight, FairShare, ShortestFirst, Dependents)


class _Bound(Factor):
    """A factor that was bound at the last tick, and that time does not change."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    def bind(self, context: Context) -> Scorer:  # noqa: ARG002 - see the class
        """Return the scorer of that tick."""
        return self._scorer


@dataclass(slots=True, eq=False)
class _Group:
    """Tasks that differ in their age only, the oldest first."""

    jobs: deque[Job]


class ExactOrder:
    """Each start takes the task with the highest score; of equal scores the oldest."""

    moves = 0
    broker_seconds = 0.0

    def __init__(self, policy: Policy, learning: Learning, levels: int = 10) -> None:
        self._policy, self._learning = policy, learning
        self._rate = growth(policy)
        self._lets_go = any(_lets_go(factor) for _, factor in policy.terms)
        self._scores = Scores(policy, lambda _: None)
        self._pins = Bands.equal(levels)
        self._groups: dict[Hashable, _Group] = {}
        self._heap: list[tuple[float, float, int, _Group]] = []
        self._waiting: set[str] = set()
        #: All that waits in the order of publishing, and some that were taken.
        self._published: deque[Job] = deque()
        self._drain = Drain()
        self._left, self._starts = 0.0, 0
        self._learn(0.0)

    def __len__(self) -> int:
        return len(self._waiting)

    def publish(self, job: Job, now: float) -> None:
        """Put it behind those that are like it."""
        self._waiting.add(job.pending.id)
        self._published.append(job)
        group = self._groups.setdefault(self._alike(job), _Group(deque()))
        group.jobs.append(job)
        if len(group.jobs) == 1:
            self._push(group, self._score(job, self._bind(now)), now)

    def give_back(self, job: Job) -> None:
        """Put it before those that are like it."""
        self._waiting.add(job.pending.id)
        self._published.appendleft(job)
        self._groups.setdefault(self._alike(job), _Group(deque())).jobs.appendleft(job)
        self._heap = []  # what it knows of this group is wrong
        self.tick(self._context.now)

    def take(self, now: float) -> Job | None:
        """The task with the highest score."""
        if not self._groups:
            return None
        group = self._starving(now) or self._best(now)
        job = group.jobs.popleft()
        self._waiting.remove(job.pending.id)
        self._taken[job.pending.key or ""] += self._charge(job.pending)
        self._left, self._starts = self._left + self._seconds(job), self._starts + 1
        if group.jobs:
            self._push(group, self._score(group.jobs[0], self._bind(now)), now)
        else:
            del self._groups[self._alike(job)]
        return job

    def _starving(self, now: float) -> _Group | None:
        """The group of the oldest task, if that starves and it is the turn of such tasks."""
        while self._published[0].pending.id not in self._waiting:
            self._published.popleft()
        job = self._published[0]
        patience = self._drain.patience(self._scores.patience())
        if job.pending.pinned is not None or patience is None or now - job.pending.published <= patience:
            return None
        if self._drain.credit.left(crowded=False) <= 0:
            return None
        if self._drain.credit.left(crowded=True) <= 0:
            best = self._best(now)
            self._push(best, self._score(best.jobs[0], self._bind(now)), now)
            if is_near_deadline(best.jobs[0].pending, now):
                return None
        self._drain.credit.spend(self._seconds(job))
        return self._groups[self._alike(job)]

    def _best(self, now: float) -> _Group:
        """The group of the task with the highest score."""
        score = self._bind(now)
        looked_at: list[tuple[float, float, int, _Group]] = []
        best = 1.0
        while self._heap and (self._rate is None or self._heap[0][0] - self._growth(now) <= best + _ROUNDING):
            group = heapq.heappop(self._heap)[-1]
            if not group.jobs or any(group is entry[-1] for entry in looked_at):  # its first one was starving
                continue
            job = group.jobs[0]
            entry = (-self._score(job, score), job.pending.published, job.index, group)
            best = min(best, entry[0])
            looked_at.append(entry)
        chosen = min(looked_at)
        for entry in looked_at:
            if entry is not chosen:
                self._push(entry[-1], -entry[0], now)
        return chosen[-1]

    def tick(self, now: float) -> None:
        """Take in what was learned, and score one task of each group anew."""
        self._learn(now)
        waits = math.fsum(self._seconds(group.jobs[0]) * len(group.jobs) for group in self._groups.values())
        busy = len(self._learning.running.read(now))
        self._drain.note(waits, self._left, self._starts, now, busy)
        self._left, self._starts = 0.0, 0
        self._scores.prune(lambda: self._waiting, (), known=len(self._waiting))
        score = self._bind(now)
        self._heap = []
        for group in self._groups.values():
            self._push(group, self._score(group.jobs[0], score), now)

    def started(self, job: Job, now: float) -> None:
        """Note what runs."""
        self._learning.start(job, now)

    def ended(self, job: Job, seconds: float, now: float) -> None:
        """Learn from a run."""
        self._learning.add(job, seconds, now)

    def _seconds(self, job: Job) -> float:
        return self._context.runtimes.mean(job.pending) or 1.0

    def _ahead(self, task: PendingTask) -> float:
        """What was taken since the last tick, which did not know of it; of what waits, nothing goes before the best."""
        return self._taken[task.key or ""]

    def _learn(self, now: float) -> None:
        self._taken: defaultdict[str, float] = defaultdict(float)
        known = self._learning.context(now)
        self._charge = Charges(known)
        keys = {group.jobs[0].pending.key or "" for group in self._groups.values()}
        self._context = replace(known, ahead=self._ahead, pending_keys=keys)
        self._scorers = Scores(self._frozen(self._context), lambda _: None) if self._rate is not None else self._scores

    def _frozen(self, context: Context) -> Policy:
        """The policy, with what time does not change bound once."""
        return Policy(
            tuple(
                (weight, _Bound(factor.bind(context)) if type(factor) in _TIMELESS else factor)
                for weight, factor in self._policy.terms
            )
        )

    def _bind(self, now: float) -> Scorer:
        return self._scorers.bind(replace(self._context, now=now))

    def _score(self, job: Job, score: Scorer) -> float:
        pinned = job.pending.pinned
        return score(job.pending) if pinned is None else self._pins.middle(pinned)

    def _growth(self, now: float) -> float:
        return (self._rate or 0.0) * (now - self._context.now)

    def _push(self, group: _Group, score: float, now: float) -> None:
        """Keep the score less what it may have grown until now: that orders bounds whenever they were made."""
        job = group.jobs[0]
        heapq.heappush(self._heap, (self._growth(now) - score, job.pending.published, job.index, group))

    def _alike(self, job: Job) -> Hashable:
        if self._rate is None:
            return job.index
        task, seen = job.task, job.pending
        if len(job.failing) != len(task.failed):  # a retry is older than those that came before it
            return job.index
        if self._lets_go and seen.deadline is not None:  # the oldest may be late, and a younger one not
            return job.index
        # A task that had to wait for its time is published late, so that its slack is its own.
        first = seen.published == task.at
        slack = task.deadline if first else seen.deadline
        return seen.name, seen.key, seen.weight, seen.dependents, seen.pinned, first, slack


def growth(policy: Policy) -> float | None:
    """By how much a score may grow in a second, if nothing is learned; None if a factor tells nothing of that."""
    rates = [(weight, _growth(factor)) for weight, factor in policy.terms]
    known = [weight * rate for weight, rate in rates if rate is not None]
    return sum(known) / sum(weight for weight, _ in rates) if len(known) == len(rates) else None


def _growth(factor: Factor) -> float | None:
    if type(factor) in _TIMELESS:
        return 0.0
    if type(factor) is Age:
        return 1.0 / factor.saturation
    if type(factor) is Deadline:
        return 1.0 / factor.horizon
    if isinstance(factor, (Max, Min)) and type(factor) in {Max, Min}:
        rates = [_growth(each) for each in factor.factors]
        return None if None in rates else max(rate for rate in rates if rate is not None)
    return None


def _lets_go(factor: Factor) -> bool:
    """Whether a task is less urgent once it is late."""
    if isinstance(factor, (Max, Min)):
        return any(map(_lets_go, factor.factors))
    return isinstance(factor, Deadline) and factor.late < 1
