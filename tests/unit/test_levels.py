from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_dynprio.levels import NARROWEST, Bands

scores = st.floats(0, 1)
counts = st.integers(1, 20)
fitted = st.builds(Bands.fit, st.lists(scores), counts)


@pytest.mark.parametrize(
    ("score", "level"), [(1.0, 0), (0.95, 0), (0.9, 0), (0.89, 1), (0.5, 4), (0.1, 8), (0.09, 9), (0.0, 9)]
)
def test_equal_bands_cover_all_scores(score: float, level: int) -> None:
    assert Bands.equal(10).level(score) == level


@given(fitted, scores, scores)
def test_a_higher_score_is_never_a_later_level(bands: Bands, one: float, other: float) -> None:
    assert 0 <= bands.level(max(one, other)) <= bands.level(min(one, other)) < bands.count


@given(fitted, scores, scores, st.integers(0, 19), st.floats(0, 1))
def test_from_the_same_level_a_higher_score_never_settles_later(
    bands: Bands, one: float, other: float, current: int, hysteresis: float
) -> None:
    current = min(current, bands.count - 1)
    high, low = (bands.settle(score, current, hysteresis) for score in (max(one, other), min(one, other)))
    assert 0 <= high <= low < bands.count


def test_a_task_stays_until_it_is_beyond_the_edge_by_the_hysteresis() -> None:
    bands = Bands.equal(10)
    assert bands.settle(0.52, 4, 0.25) == 4
    assert bands.settle(0.61, 4, 0.25) == 4
    assert bands.settle(0.63, 4, 0.25) == 3
    assert bands.settle(0.48, 4, 0.25) == 4
    assert bands.settle(0.47, 4, 0.25) == 5
    assert bands.settle(0.05, 0, 0.25) == 9


@given(fitted, st.integers(0, 19), scores, st.lists(st.floats(0, 0.99), min_size=2), st.floats(0.05, 1))
def test_jitter_below_the_hysteresis_changes_the_level_at_most_once(
    bands: Bands, current: int, base: float, jitter: list[float], hysteresis: float
) -> None:
    level = min(current, bands.count - 1)
    changes = 0
    for part in jitter:
        settled = bands.settle(base + part * hysteresis * bands.width, level, hysteresis)
        changes += settled != level
        level = settled
    assert changes <= 1


@given(fitted, st.data())
def test_the_middle_of_a_level_is_of_that_level(bands: Bands, data: st.DataObject) -> None:
    level = data.draw(st.integers(0, bands.count - 1))
    assert bands.level(bands.middle(level)) == level


@given(st.lists(scores, min_size=1), counts)
def test_bands_lie_within_the_possible_scores_and_are_wide_enough(pending: list[float], count: int) -> None:
    bands = Bands.fit(pending, count)
    assert -1e-9 <= bands.low < bands.high <= 1 + 1e-9
    assert bands.high - bands.low >= NARROWEST - 1e-9


def test_bands_spread_over_what_is_pending_without_the_outliers() -> None:
    bands = Bands.fit([0.0, 1.0, *(0.3 + 0.003 * step for step in range(100))], 10)
    assert 0.3 < bands.low < 0.33
    assert 0.58 < bands.high < 0.6


@given(scores)
def test_equal_scores_stay_where_producers_put_them(score: float) -> None:
    bands = Bands.fit([score] * 50, 10)
    assert bands.settle(score, Bands.equal(10).level(score), 0.01) == Bands.equal(10).level(score)


def test_noise_between_nearly_equal_scores_is_not_blown_up() -> None:
    bands = Bands.fit([0.521, 0.522, 0.523, 0.524], 10)
    assert {bands.level(score) for score in (0.521, 0.524)} == {Bands.equal(10).level(0.52)} != {0, 9}


def test_without_scores_nothing_changes() -> None:
    previous = Bands(0.2, 0.6, 10)
    assert Bands.fit([], 10, previous) == previous
    assert Bands.fit([], 10) == Bands.equal(10)


def test_bands_of_another_count_are_not_smoothed_against() -> None:
    assert Bands.fit([0.1, 0.9], 5, Bands.equal(10)) == Bands.fit([0.1, 0.9], 5)


def test_bands_move_a_part_of_the_way() -> None:
    bands = Bands.fit([0.5, 1.0], 10, Bands(0.0, 0.5, 10), smoothing=0.2)
    assert bands.low == pytest.approx(0.1)
    assert bands.high == pytest.approx(0.6)


@given(st.lists(scores, min_size=1), counts)
def test_a_static_backlog_has_static_bands(pending: list[float], count: int) -> None:
    first = Bands.fit(pending, count)
    assert Bands.fit(pending, count, first) == first
