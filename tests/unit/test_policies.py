from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_dynprio.errors import PolicyError
from celery_dynprio.models import Context, Contribution, PendingTask
from celery_dynprio.policies import (
    Age,
    Deadline,
    Dependents,
    Factor,
    FairShare,
    Gauge,
    Max,
    Min,
    Policy,
    ShortestFirst,
    Weight,
    default_policy,
    factor,
)
from celery_dynprio.runtimes import Runtimes, Sums

NOW = 1_000_000.0
TASK = PendingTask("1", "shop.checkout", published=NOW - 60)

names = st.sampled_from(["a", "b", "c"])
tasks = st.builds(
    PendingTask,
    st.just("1"),
    names,
    st.floats(NOW - 5000, NOW + 100),
    st.floats(0, 10),
    st.none() | st.floats(NOW - 500, NOW + 500),
    st.none() | names,
    st.integers(0, 30),
)
positive = st.floats(0, 1e6)
sums = st.builds(Sums, st.floats(0.1, 1e6), positive, st.floats(0, 1e12))
learned = st.builds(
    Runtimes,
    st.dictionaries(names, positive),
    st.dictionaries(names, sums),
    st.dictionaries(st.tuples(names, names), sums),
)
contexts = st.builds(Context, st.just(NOW), learned, st.dictionaries(names, positive))
factors: list[Factor] = [
    Weight(),
    Age(saturation=300),
    Deadline(horizon=60),
    Deadline(horizon=60, finish=0.9),
    Deadline(horizon=60, late=0.25),
    FairShare(),
    ShortestFirst(scale=60),
    Dependents(saturation=10),
    Gauge(0.3, match="a"),
    Max(Weight(), Age()),
    Min(Weight(), Age()),
]
policies = st.lists(st.tuples(st.floats(0.01, 100), st.sampled_from(factors)), min_size=1, max_size=6).map(
    lambda terms: Policy(tuple(terms))
)


def context(*, runtimes: Mapping[str, float] | None = None, use: Mapping[str, float] | None = None) -> Context:
    return Context(NOW, Runtimes(runtimes or {}), use or {})


class TestFactors:
    @pytest.mark.parametrize(("weight", "value"), [(0, 0), (1, 0.1), (10, 1)])
    def test_weight(self, weight: float, value: float) -> None:
        assert Weight()(replace(TASK, weight=weight), context()) == value

    @pytest.mark.parametrize(("waited", "value"), [(-5, 0), (0, 0), (60, 0.2), (300, 1), (900, 1)])
    def test_age(self, waited: float, value: float) -> None:
        assert Age(saturation=300)(replace(TASK, published=NOW - waited), context()) == value

    @pytest.mark.parametrize(("left", "value"), [(None, 0), (90, 0), (60, 0), (45, 0.25), (0, 1), (-10, 1)])
    def test_deadline(self, left: float | None, value: float) -> None:
        task = replace(TASK, deadline=None if left is None else NOW + left)
        assert Deadline(horizon=60)(task, context()) == value

    @pytest.mark.parametrize("late", [0, 0.25, 1])
    def test_a_late_task_makes_room_for_those_that_can_be_in_time(self, late: float) -> None:
        factor = Deadline(horizon=60, late=late)
        in_time, just, missed = (factor(replace(TASK, deadline=NOW + left), context()) for left in (45, 0, -0.001))
        assert (in_time, just, missed) == (0.25, 1, late)
        assert factor(TASK, context()) == 0

    @pytest.mark.parametrize("late", [-0.1, 1.1, "0", True, math.nan, None])
    def test_late_is_a_number_from_0_to_1(self, late: Any) -> None:
        with pytest.raises(PolicyError, match="use a number from 0 to 1"):
            Deadline(late=late)

    def test_a_deadline_is_for_the_start_however_long_a_task_runs(self) -> None:
        task = replace(TASK, deadline=NOW + 45)
        assert Deadline(horizon=60)(task, context(runtimes={TASK.name: 30})) == 0.25

    def test_a_deadline_for_the_end_counts_back_from_the_runtime_that_is_hardly_exceeded(self) -> None:
        task, steady = replace(TASK, deadline=NOW + 45), Sums(1e9, 30e9, 900e9)
        known = Context(NOW, Runtimes({TASK.name: 30.0}, {TASK.name: steady}))
        assert Deadline(horizon=60, finish=0.9)(task, known) == pytest.approx(0.75, abs=0.01)
        unsure = context(runtimes={TASK.name: 30})
        task = replace(TASK, deadline=NOW + 100)
        half, nine = (Deadline(horizon=120, finish=finish)(task, unsure) for finish in (0.5, 0.9))
        assert half == pytest.approx(1 - (100 - 30 / 2**0.5) / 120)
        assert half < nine < 1

    def test_a_deadline_for_the_end_is_that_of_the_start_while_nothing_is_learned(self) -> None:
        assert Deadline(horizon=60, finish=0.9)(replace(TASK, deadline=NOW + 45), context()) == 0.25

    def test_a_deadline_for_the_end_depends_on_whose_task_it_is(self) -> None:
        pairs = {(TASK.name, "big"): Sums(1e6, 40e6, 1600e6)}
        score = Deadline(horizon=60, finish=0.9).bind(Context(NOW, Runtimes({TASK.name: 1.0}, {}, pairs)))
        big, small = (score(replace(TASK, key=key, deadline=NOW + 50)) for key in ("big", "small"))
        assert big == pytest.approx(1 - 10 / 60, abs=0.01)
        assert small < 0.25
        assert score(TASK) == 0

    @pytest.mark.parametrize("finish", [0, 1, 90, "0.9", True, math.nan])
    def test_a_deadline_cannot_be_met_for_sure(self, finish: Any) -> None:
        with pytest.raises(PolicyError, match=r"above 0 and below 1, such as 0\.9"):
            Deadline(finish=finish)

    def test_shortest_first_knows_whose_task_is_long(self) -> None:
        pairs = {("export", "big"): Sums(1e6, 300e6, 9e10)}
        score = ShortestFirst(scale=100).bind(Context(NOW, Runtimes({"export": 100.0}, {}, pairs)))
        tasks = [replace(TASK, name="export", key=key) for key in ("big", "small", None)]
        assert [score(task) for task in tasks] == pytest.approx([0.25, 0.5, 0.5], rel=0.001)

    @pytest.mark.parametrize(("name", "value"), [("quick", 0.75), ("slow", 0.25), ("new", 60 / 160)])
    def test_shortest_first(self, name: str, value: float) -> None:
        known = context(runtimes={"quick": 20, "slow": 180})
        assert ShortestFirst(scale=60)(replace(TASK, name=name), known) == pytest.approx(value)

    def test_shortest_first_knows_nothing_at_first(self) -> None:
        assert ShortestFirst()(TASK, context()) == 0.5

    @pytest.mark.parametrize(("waiting", "value"), [(0, 0), (4, 0.4), (10, 1), (99, 1)])
    def test_dependents(self, waiting: int, value: float) -> None:
        assert Dependents(saturation=10)(replace(TASK, dependents=waiting), context()) == value

    def test_max_and_min(self) -> None:
        task = replace(TASK, weight=7)
        assert Max(Weight(), Age(saturation=300), Dependents())(task, context()) == 0.7
        assert Min(Weight(), Age(saturation=300))(task, context()) == 0.2

    def test_a_function_becomes_a_factor(self) -> None:
        @factor
        def vip(task: PendingTask, context: Context) -> float:
            """Tell whether a task is for someone important."""
            return float(task.key == "vip" and context.now == NOW)

        assert isinstance(vip, Factor)
        assert vip(replace(TASK, key="vip"), context()) == 1
        assert vip(TASK, context()) == 0
        assert (vip.name, repr(2 * vip)) == ("vip", "2 * vip")
        assert vip.__doc__ == "Tell whether a task is for someone important."

    @pytest.mark.parametrize("value", [7, -0.1, math.nan])
    def test_a_function_that_gives_no_score_is_named(self, value: float) -> None:
        @factor
        def wild(task: PendingTask, context: Context) -> float:
            return value

        with pytest.raises(PolicyError, match=r"'wild' gave .* 'shop.checkout'.*0 to 1"):
            (1 * wild).score(TASK, context())


class TestGauge:
    @pytest.mark.parametrize(
        ("low", "high", "reading", "value"),
        [(0, 1, 0.25, 0.25), (0, 100, 30, 0.3), (90, 40, 90, 0), (90, 40, 65, 0.5), (0, 1, 5, 1), (0, 1, -5, 0)],
    )
    def test_scales(self, low: float, high: float, reading: float, value: float) -> None:
        assert Gauge(lambda: reading, low, high)(TASK, context()) == value

    def test_a_constant_lies_between_low_and_high(self) -> None:
        assert Gauge(30, 0, 100)(TASK, context()) == Gauge(30, 60, 0)(TASK, context()) - 0.2 == 0.3
        with pytest.raises(PolicyError, match=r"Gauge\(3\): a constant has to be between low=0.0 and high=1.0"):
            Gauge(3)

    def test_speaks_only_of_the_tasks_that_match(self) -> None:
        gauge = Gauge(0.25, match="reports.*", otherwise=1)
        score = gauge.bind(context())
        assert score(replace(TASK, name="reports.daily")) == 0.25
        assert score(replace(TASK, name="other.reports.daily")) == 1

    def test_is_read_once_a_tick_and_not_at_every_publish(self) -> None:
        readings = iter([0.1, 0.2, 0.3])
        gauge = Gauge(lambda: next(readings))
        assert [gauge(TASK, Context(now)) for now in (NOW, NOW + 0.4, NOW + 0.6)] == [0.1, 0.1, 0.2]
        assert gauge(TASK, Context(NOW - 100)) == 0.3  # the clock was set back

    def test_name(self) -> None:
        def load() -> float:
            return 0.0

        assert [Gauge(load).name, Gauge(1.0).name, Gauge(load, name="idle").name] == ["load", "Gauge", "idle"]

    @pytest.mark.parametrize("reading", ["12", None, math.nan, True])
    def test_a_source_that_gives_no_number_is_named(self, reading: object) -> None:
        with pytest.raises(PolicyError, match=r"'load' gave .*finite number"):
            Gauge(lambda: reading, name="load")(TASK, context())  # type: ignore[arg-type,return-value]

    def test_what_the_source_raises_is_passed_on(self) -> None:
        with pytest.raises(ZeroDivisionError):
            (1 * Gauge(lambda: 1 / 0)).score(TASK, context())


class TestPolicy:
    def test_score_is_the_weighted_mean(self) -> None:
        policy = 3 * Weight() + Age(saturation=300)
        assert policy.score(replace(TASK, weight=4), context()) == pytest.approx((3 * 0.4 + 1 * 0.2) / 4)

    def test_explain_gives_each_factor_its_part(self) -> None:
        policy = 3 * Weight() + Age(saturation=300)
        assert policy.explain(replace(TASK, weight=4), context()) == (
            Contribution("Weight", 0.4, 3, 0.4 * 3 / 4),
            Contribution("Age", 0.2, 1, 0.2 * 1 / 4),
        )

    def test_repr_is_the_formula(self) -> None:
        policy = 4 * Deadline(horizon=60) + 0.5 * Max(Weight(), Dependents(saturation=3)) + Gauge(1, high=2, name="x")
        assert repr(policy) == (
            "4 * Deadline(horizon=60) + 0.5 * Max(Weight(), Dependents(saturation=3)) + 1 * Gauge(x, low=0.0, high=2)"
        )

    def test_a_policy_can_be_scaled_and_added(self) -> None:
        policy = 2 * (Weight() + 3 * Age(saturation=300)) + (1 * Weight() + FairShare())
        assert [weight for weight, _ in policy.terms] == [2, 6, 1, 1]

    def test_what_is_no_factor_cannot_be_added(self) -> None:
        with pytest.raises(TypeError):
            Weight() + 3  # type: ignore[operator]

    @pytest.mark.parametrize("weight", [0, -1, math.nan, math.inf, True, "2", 10**400])
    def test_wrong_weights_are_named(self, weight: float) -> None:
        with pytest.raises(PolicyError, match=r"Age\(saturation=5\): use a finite number"):
            Policy(((weight, Age(saturation=5)),))

    @pytest.mark.parametrize("terms", [(), ((1e308, Weight()), (1e308, Age()))])
    def test_weights_have_to_sum_to_something(self, terms: tuple[tuple[float, Factor], ...]) -> None:
        with pytest.raises(PolicyError, match="sum to"):
            Policy(terms)

    @pytest.mark.parametrize("weight", [0, -2, math.nan, True])
    def test_a_policy_is_scaled_by_a_number_above_0(self, weight: float) -> None:
        with pytest.raises(PolicyError, match="use a finite number above 0"):
            weight * default_policy()

    @pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, True, "much"])
    @pytest.mark.parametrize(
        ("kind", "option"),
        [
            (Age, "saturation"),
            (Deadline, "horizon"),
            (Dependents, "saturation"),
            (ShortestFirst, "scale"),
        ],
    )
    def test_wrong_options_are_named(self, kind: Any, option: str, value: object) -> None:
        with pytest.raises(PolicyError) as caught:
            kind(**{option: value})
        assert str(caught.value).startswith(f"{kind.__name__}({option}={value!r}): use ")
        assert str(caught.value).endswith("above 0")

    @pytest.mark.parametrize(
        ("short", "seconds"),
        [
            (Age(saturation="5m"), Age(saturation=300)),
            (Deadline(horizon=timedelta(minutes=1)), Deadline(horizon=60)),
            (ShortestFirst(scale="1h30m"), ShortestFirst(scale=5400)),
        ],
    )
    def test_times_are_written_as_people_do(self, short: Factor, seconds: Factor) -> None:
        assert short == seconds

    def test_a_weight_may_stand_behind(self) -> None:
        policy = Weight() * 2 + (Age() + Deadline()) * 3
        assert repr(policy) == "2 * Weight() + 3 * Age(saturation=300.0) + 3 * Deadline(horizon=60.0)"

    @pytest.mark.parametrize(
        "options",
        [
            {"source": "load"},
            {"source": math.nan},
            {"low": 1},
            {"high": math.inf},
            {"otherwise": 2},
            {"otherwise": "1"},
            {"every": 0},
        ],
    )
    def test_wrong_gauges_are_refused(self, options: dict[str, object]) -> None:
        with pytest.raises(PolicyError, match="Gauge"):
            Gauge(**{"source": 1, **options})  # type: ignore[arg-type]

    @pytest.mark.parametrize("kind", [Max, Min])
    def test_extremes_need_two_factors(self, kind: type[Max | Min]) -> None:
        with pytest.raises(PolicyError, match="two or more"):
            kind(Weight())
        with pytest.raises(PolicyError, match="is not a factor"):
            kind(Weight(), 2 * Age())  # type: ignore[arg-type]

    def test_patience_is_four_times_the_longest_saturation(self) -> None:
        assert default_policy().patience == 1200
        assert (Weight() + 2 * Max(Age(saturation=10), Min(Weight(), Age(saturation=50)))).patience == 200
        assert (2 * Weight()).patience is None

    def test_the_default(self) -> None:
        assert repr(default_policy()) == (
            "48 * Deadline(horizon=40, late=0) + 2 * Weight() + 9 * FairShare() + 1 * Age(saturation=300) + "
            "40 * ShortestFirst(scale=None)"
        )

    def test_rounding_gives_no_score_above_1(self) -> None:
        policy = 0.1 * Weight() + 0.2 * Weight() + 0.3 * Weight()
        assert policy.score(PendingTask("a", "a.task", 0.0, weight=10.0), Context(0.0)) == 1.0


class TestProperties:
    @given(policies, tasks, contexts)
    def test_scores_and_parts_are_from_0_to_1(self, policy: Policy, task: PendingTask, known: Context) -> None:
        parts = policy.explain(task, known)
        assert all(0 <= part.value <= 1 for part in parts)
        score = policy.score(task, known)
        assert 0 <= score <= 1
        assert sum(part.contribution for part in parts) == pytest.approx(score)

    @given(policies, tasks, contexts, st.floats(0, 1000))
    def test_urgency_never_falls(self, policy: Policy, task: PendingTask, known: Context, more: float) -> None:
        score = policy.bind(known)
        assert score(replace(task, published=task.published - more)) >= score(task)
        assert score(replace(task, weight=min(10, task.weight + more))) >= score(task)
        assert score(replace(task, dependents=task.dependents + int(more))) >= score(task)
        if task.deadline is not None:
            assert score(replace(task, deadline=task.deadline - more)) >= score(task)
            assert score(task) >= score(replace(task, deadline=None))

    @given(policies, tasks, contexts)
    def test_the_order_of_the_terms_does_not_count(self, policy: Policy, task: PendingTask, known: Context) -> None:
        scores = {Policy(terms).score(task, known) for terms in permutations(policy.terms[:4])}
        assert max(scores) == pytest.approx(min(scores))

    @given(policies, tasks, contexts, st.floats(0.1, 10))
    def test_only_proportions_count(self, policy: Policy, task: PendingTask, known: Context, times: float) -> None:
        assert (times * policy).score(task, known) == pytest.approx(policy.score(task, known))
