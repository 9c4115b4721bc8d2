"""Scores survive a broken policy, and a long overflow is ranked in bounded time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from celery_dynprio.engine.scores import MIDDLE, Scores
from celery_dynprio.models import Context, PendingTask
from celery_dynprio.policies import Weight, factor

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
