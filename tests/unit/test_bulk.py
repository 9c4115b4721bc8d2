"""Many tasks scored at once get the very scores that each gets for itself."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_dynprio.engine.scores import MIDDLE, Scores
from celery_dynprio.models import Context, PendingTask
from celery_dynprio.policies import (
    Age,
    BulkScorer,
    Deadline,
    Dependents,
    Factor,
    FairShare,
    Gauge,
    Max,
    Min,
    Policy,
    Scorer,
    ShortestFirst,
    Weight,
    default_policy,
    factor,
)
from celery_dynprio.policies.ahead import with_pending
from celery_dynprio.policies.base import one_of
from celery_dynprio.runtimes import Runtimes, Sums

NOW = 1000.0
NAMES = ["short", "long", "new"]
KEYS = [None, "", "ada", "bob", "eve"]

FACTORS = [
    Age(300),
    Age(0.1),
    Deadline(40),
    Deadline(40, finish=0.9),
    Deadline(40, late=0),
    Dependents(3),
    FairShare(),
    FairShare({"ada": 3.0}),
    FairShare(separator="a"),
    Gauge(0.3),
    Gauge(0.3, match="s*"),
    Max(FairShare(), Weight()),
    Min(Age(60), Weight()),
    ShortestFirst(),
    ShortestFirst(scale=None),
    Weight(),
]

tasks_of = st.lists(
    st.builds(
        PendingTask,
        st.integers(0, 50).map(str),
        st.sampled_from(NAMES),
        st.floats(NOW - 900, NOW + 10),
        st.floats(0, 10),
        st.none() | st.floats(NOW - 100, NOW + 100),
        st.sampled_from(KEYS),
        st.integers(0, 5),
    ),
    unique_by=lambda task: task.id,
)

contexts = st.builds(
    Context,
    st.just(NOW),
    st.sampled_from(
        [
            Runtimes(),
            Runtimes({"short": 0.3, "long": 7.0}),
            Runtimes({"short": 0.3, "long": 7.0}, {}, {("long", "ada"): Sums(3.0, 90.0, 3000.0)}),
        ]
    ),
    st.dictionaries(st.sampled_from(["", "ada", "bob"]), st.floats(0, 1e6)),
    st.dictionaries(st.sampled_from(["", "ada", "eve"]), st.floats(0, 1e6)),
)

policies = st.lists(st.tuples(st.floats(0.01, 20), st.sampled_from(FACTORS)), min_size=1, max_size=6).map(
    lambda terms: Policy(tuple(terms))
)


class _Plain(Factor):
    """Another factor, asked for one task at a time."""

    def __init__(self, factor: Factor) -> None:
        self._factor = factor
        self.asks_ahead, self.alike_in_key = factor.asks_ahead, factor.alike_in_key

    def bind(self, context: Context) -> Scorer:
        return one_of(self._factor.bind(context))


def _unwanted(problem: object) -> None:
    raise AssertionError(problem)


def scored(policy: Policy, context: Context, tasks: list[PendingTask]) -> list[float]:
    score = Scores(policy, _unwanted).bind(with_pending(context, tasks, policy))
    return [score(task) for task in tasks]


@given(policies | st.just(default_policy()), contexts, tasks_of)
def test_all_at_once_is_one_by_one_to_the_last_digit(
    policy: Policy, context: Context, tasks: list[PendingTask]
) -> None:
    plain = Policy(tuple((weight, _Plain(each)) for weight, each in policy.terms))
    assert scored(policy, context, tasks) == scored(plain, context, tasks)


@pytest.mark.parametrize("each", FACTORS, ids=repr)
def test_each_factor_of_ours_scores_many_at_once(each: Factor) -> None:
    assert isinstance(each.bind(Context(NOW, use={"ada": 1.0, "bob": 2.0})), BulkScorer)


def _broken(fails: Callable[[PendingTask], bool]) -> Factor:
    @factor
    def broken(task: PendingTask, _: Context) -> float:
        if fails(task):
            raise RuntimeError("no idea")
        return 1.0

    return broken


@pytest.mark.parametrize("make", [_broken, lambda fails: Max(_broken(fails), Weight())])
def test_what_a_broken_factor_cannot_score_does_not_harm_the_others(
    make: Callable[[Callable[[PendingTask], bool]], Factor],
) -> None:
    tasks = [PendingTask(str(number), "a.task", NOW - 1, key="ada") for number in range(4)]
    complaints: list[object] = []
    policy = 1 * make(lambda task: task.id == "2") + 1 * FairShare()
    score = Scores(policy, complaints.append).bind(with_pending(Context(NOW), tasks, policy))
    assert [score(task) for task in tasks] == [0.75, 0.75, MIDDLE, 0.75]
    assert [str(problem) for problem in complaints] == ["no idea"]


def test_a_sign_of_life_is_given_for_each_task_of_a_factor_that_may_be_slow() -> None:
    beats = count()
    policy = 1 * _broken(lambda _: False) + 1 * Weight()
    tasks = [PendingTask(str(number), "a.task", NOW) for number in range(5)]
    Scores(policy, _unwanted, lambda: next(beats)).bind(with_pending(Context(NOW), tasks, policy))
    assert next(beats) >= len(tasks)


def test_a_faster_way_that_fails_leaves_each_task_to_the_other() -> None:
    class Hasty(Factor):
        def bind(self, context: Context) -> Scorer:  # noqa: ARG002 - all score alike
            return BulkScorer(lambda _: 0.25, lambda _: [1.0])

    tasks = [PendingTask(str(number), "a.task", NOW) for number in range(3)]
    assert scored(1 * Hasty(), Context(NOW), tasks) == [0.25] * 3
