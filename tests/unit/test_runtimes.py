"""What is known of how long a task runs: by its name and key, by its name, and for want of better, by all names."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_dynprio.models import PendingTask
from celery_dynprio.runtimes import PRIOR_RUNS, Estimate, Runtimes, Sums

TASK = PendingTask("1", "report", published=0.0, key="acme")

seconds = st.floats(1e-3, 1e6)
estimates = st.builds(Estimate, seconds, st.floats(0, 1e6))


def sums(*runs: float) -> Sums:
    return Sums(len(runs), sum(runs), sum(run * run for run in runs))


def expected(runtimes: Runtimes, task: PendingTask = TASK) -> Estimate:
    found = runtimes.expected(task)
    assert found is not None
    return found


def test_nothing_is_expected_while_nothing_was_learned() -> None:
    assert Runtimes().expected(TASK) is None


def test_it_is_a_mapping_of_means_by_name() -> None:
    runtimes = Runtimes({"report": 4.0}, pairs={("report", "acme"): sums(9.0)})
    assert dict(runtimes) == {"report": 4.0} == runtimes
    assert runtimes.get("other") is None


def test_a_name_that_never_ran_is_expected_to_take_what_all_take() -> None:
    runtimes = Runtimes({"short": 1.0, "long": 9.0}, {"short": sums(*[1.0] * 10_000), "long": sums(*[9.0] * 10_000)})
    assert expected(runtimes) == pytest.approx((5.0, 4.0), rel=0.01)


def test_without_a_key_or_a_run_of_it_the_name_tells() -> None:
    runtimes = Runtimes({"report": 4.0}, pairs={("report", "acme"): sums(9.0), ("report", ""): sums(50.0)})
    assert expected(runtimes, replace(TASK, key=None)).mean == 4.0
    assert expected(runtimes, replace(TASK, key="")).mean == 4.0
    assert expected(runtimes, replace(TASK, key="bolt")).mean == 4.0


def test_a_key_of_its_own_counts_the_more_the_more_it_ran() -> None:
    def mean(runs: int) -> float:
        return expected(Runtimes({"report": 4.0}, pairs={("report", "acme"): sums(*[100.0] * runs)})).mean

    assert mean(1) == pytest.approx((100 + PRIOR_RUNS * 4) / (1 + PRIOR_RUNS))
    assert 4 < mean(1) < mean(2) < mean(10) < 100
    assert mean(1000) == pytest.approx(100, rel=0.01)


def test_a_key_whose_name_is_forgotten_is_still_known() -> None:
    runtimes = Runtimes({"other": 1.0}, pairs={("report", "acme"): sums(*[100.0] * 1000)})
    assert expected(runtimes).mean == pytest.approx(100, rel=0.01)


def test_the_spread_is_as_wide_as_the_mean_until_runs_tell_better() -> None:
    assert expected(Runtimes({"report": 4.0})) == (4.0, 4.0)
    few, many = (Runtimes({"report": 4.0}, {"report": sums(*[4.0] * runs)}) for runs in (2, 1000))
    assert 4.0 > expected(few).deviation > expected(many).deviation
    assert expected(many).deviation < 0.2


def test_the_spread_of_a_name_scales_with_its_mean() -> None:
    """Workers of an older version tell the mean only, so the spread may have missed some runs."""
    runtimes = Runtimes({"report": 8.0}, {"report": sums(*[1.0, 3.0] * 1000)})
    assert expected(runtimes) == pytest.approx((8.0, 4.0), rel=0.01)


def test_quantiles_are_those_of_a_log_normal_distribution() -> None:
    drawn = random.Random(1)
    runs = [drawn.lognormvariate(1.0, 0.8) for _ in range(20_000)]
    known = expected(Runtimes({"report": sum(runs) / len(runs)}, {"report": sums(*runs)}))
    runs.sort()
    for q in (0.1, 0.5, 0.9, 0.99):
        assert known.quantile(q) == pytest.approx(runs[int(q * len(runs))], rel=0.06)


@given(estimates, st.floats(0.001, 0.998))
def test_quantiles_grow_and_stay_finite(known: Estimate, q: float) -> None:
    low, high = known.quantile(q), known.quantile(q + 0.001)
    assert 0 <= low <= high < math.inf
    assert known.quantile(0.5) <= known.mean * (1 + 1e-9)


@given(estimates)
def test_nine_in_ten_take_no_more_than_2_3_times_the_mean(known: Estimate) -> None:
    """The quantile of this distribution is bounded, whatever the spread: an outlier cannot blow it up."""
    assert known.quantile(0.9) <= 2.28 * known.mean


@pytest.mark.parametrize("q", [0, 1, -1, math.nan, 2])
def test_a_quantile_is_between_0_and_1(q: float) -> None:
    with pytest.raises(ValueError, match="above 0 and below 1"):
        Estimate(1.0, 1.0).quantile(q)


def test_a_runtime_of_nothing_has_no_spread() -> None:
    assert expected(Runtimes({"report": 0.0}, {"report": sums(0.0, 0.0)})).quantile(0.9) == 0.0


stored = st.floats(0, 1e15)


@given(stored, st.builds(Sums, stored, stored, stored), st.builds(Sums, stored, stored, stored), st.floats(0.01, 0.99))
def test_whatever_was_stored_makes_a_number(mean: float, name: Sums, pair: Sums, q: float) -> None:
    runtimes = Runtimes({"report": mean}, {"report": name}, {("report", "acme"): pair})
    assert 0 <= expected(runtimes).quantile(q) < math.inf
    assert expected(runtimes).mean == runtimes.mean(TASK)


@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=30), st.floats(0, 1e5))
def test_an_estimate_is_between_the_runs_and_what_is_usual(runs: list[float], usual: float) -> None:
    known = expected(Runtimes({"report": usual}, pairs={("report", "acme"): sums(*runs)}))
    mean = sum(runs) / len(runs)
    assert min(mean, usual) - 1e-6 <= known.mean <= max(mean, usual) + 1e-6
    assert 0 <= known.deviation < math.inf
