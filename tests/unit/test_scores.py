"""Scores survive a broken policy, and of a long queue they stand for some ticks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from celery_dynprio.engine.scores import AT_ONCE, MIDDLE, STANDING, Scores
from celery_dynprio.models import Context, PendingTask
from celery_dynprio.policies import Age, Weight, factor
from celery_dynprio.policies.ahead import with_pending

NOW = Context(1000.0)


def task(number: int, weight: float = 1.0, published: float | None = None) -> PendingTask:
    return PendingTask(str(number), "a.task", float(number) if published is None else published, weight)


def of(function: Callable[[PendingTask], Any], complaints: list[object]) -> Scores:
    return Scores(1 * factor(lambda task, _: function(task)), complaints.append)


@pytest.mark.parametrize("nonsense", [math.nan, math.inf, -0.1, 1.1, "0.5", None, 1j, 10**400])
def test_the_last_good_score_stands(nonsense: Any) -> None:
    answers = iter([0.9, nonsense, nonsense])
    complaints: list[object] = []
    scores = of(lambda _: next(answers), complaints)
    assert scores.bind(NOW)(task(1)) == 0.9
    score = scores.bind(NOW)
    assert score(task(1)) == 0.9
    assert score(task(2)) == MIDDLE
    assert len(complaints) == 1


def test_a_policy_that_raises_never_raises_here() -> None:
    def broken(_: PendingTask) -> float:
        raise RuntimeError("no idea")

    complaints: list[object] = []
    score = of(broken, complaints).bind(NOW)
    assert [score(task(1)), score(task(2))] == [MIDDLE, MIDDLE]
    assert [str(problem) for problem in complaints] == ["no idea"]


def test_what_is_gone_is_forgotten_and_what_is_pending_is_not() -> None:
    answers = {str(n): 0.7 for n in range(3000)}
    scores = of(lambda task: answers[task.id], [])
    score = scores.bind(NOW)
    for n in range(3000):
        score(task(n))
    scores.prune(lambda: {"1"}, {"2": task(2)}, known=2)
    answers.clear()
    score = scores.bind(NOW)
    assert [score(task(n)) for n in (1, 2, 3)] == [0.7, 0.7, MIDDLE]


def test_an_explanation_fails_quietly_and_a_pinned_task_has_none() -> None:
    def broken(_: PendingTask) -> float:
        raise RuntimeError("no idea")

    complaints: list[object] = []
    scores = of(broken, complaints)
    assert list(scores.explain(task(1), NOW)) == []
    assert [str(problem) for problem in complaints] == ["no idea"]
    weighed = Scores(1 * Weight(), complaints.append)
    assert [each.factor for each in weighed.explain(task(1), NOW)] == ["Weight"]
    assert list(weighed.explain(replace(task(1), pinned=3), NOW)) == []
    assert len(complaints) == 1


class LongQueue:
    """What waits in a queue that is scored tick by tick; what the policy's own factor is asked for is noted."""

    def __init__(self, size: int) -> None:
        self.tasks = [task(number, published=900.0) for number in range(size)]
        self.asked: list[str] = []
        self._now = 1000.0

        def weigh(task: PendingTask, _: Context) -> float:
            self.asked.append(task.id)
            return task.weight / 10

        weigh_all = factor(weigh)
        weigh_all.asks_ahead = False
        self._policy = 1 * weigh_all + 1 * Age(300)
        self._scores = Scores(self._policy, unwanted)
        self._context = NOW

    def tick(self, seconds: float = 0.1) -> list[float]:
        self._now += seconds
        self.asked.clear()
        if not self._scores.stand(len(self.tasks), self._now):
            self._context = with_pending(replace(NOW, now=self._now), self.tasks, self._policy)
        return list(self._scores.bind(self._context).all(self.tasks))


def unwanted(problem: object) -> None:
    raise AssertionError(problem)


def test_a_short_queue_is_scored_at_each_tick() -> None:
    queue = LongQueue(AT_ONCE)
    queue.tick()
    queue.tick()
    assert len(queue.asked) == AT_ONCE


def test_of_a_long_queue_the_scores_stand_until_each_tick_has_scored_as_many_in_the_mean() -> None:
    queue = LongQueue(3 * AT_ONCE)
    first = queue.tick()
    asked = []
    for _ in range(3):
        assert queue.tick() == first or queue.asked
        asked.append(len(queue.asked))
    assert asked == [0, 0, 3 * AT_ONCE]


def test_while_scores_stand_new_tasks_and_changed_ones_get_theirs_of_the_same_moment() -> None:
    queue = LongQueue(3 * AT_ONCE)
    first = queue.tick()
    queue.tasks.append(task(-1, published=900.0))
    queue.tasks[7] = replace(queue.tasks[7], weight=9.0)
    second = queue.tick()
    assert sorted(queue.asked) == ["-1", "7"]
    assert second[-1] == first[0]  # it is like that one, although it was scored later
    assert second[7] > first[7]
    assert second[:7] == first[:7]


@pytest.mark.parametrize("size", [3 * AT_ONCE, 20 * AT_ONCE])
def test_scores_stand_for_some_seconds_only(size: int) -> None:
    queue = LongQueue(size)
    queue.tick()
    queue.tick(STANDING)
    assert len(queue.asked) == size


def test_scores_stand_only_while_few_tasks_are_new() -> None:
    queue = LongQueue(20 * AT_ONCE)
    queue.tick()
    queue.tasks += [task(-number, published=900.0) for number in range(1, 3 * AT_ONCE)]
    queue.tick()
    assert len(queue.asked) == 3 * AT_ONCE - 1
    queue.tick()
    assert len(queue.asked) == len(queue.tasks)
