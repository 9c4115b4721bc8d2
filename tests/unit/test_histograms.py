"""Histograms of waits and runs: what falls where, and what a run tells."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_dynprio.models import Run
from celery_dynprio.ports.histograms import BOUNDS, ROW, Distribution, Series, SeriesKey
from celery_dynprio.stores.memory import MemoryHistograms


@given(st.lists(st.floats(min_value=0, max_value=1e6)))
def test_every_duration_falls_into_one_bucket(durations: list[float]) -> None:
    made = Distribution()
    for seconds in durations:
        made.add(seconds)
    assert sum(made.counts) == len(durations)
    assert made.total == pytest.approx(sum(durations))
    for number, bound in enumerate(BOUNDS):
        assert sum(made.counts[: number + 1]) == sum(seconds <= bound for seconds in durations)


def test_a_run_counts_for_its_task_and_level() -> None:
    memory = MemoryHistograms()
    memory.add(
        [Run("a", "x", 2.0, 3, 0.5, in_time=True), Run("a", "y", 4.0, 3, 0.2, in_time=False), Run("a", "x", 1.0)]
    )
    found = memory.read()
    assert set(found) == {SeriesKey("a", 3), SeriesKey("a", None)}
    known, unknown = found[SeriesKey("a", 3)], found[SeriesKey("a", None)]
    assert known.waits.total == pytest.approx(0.7)
    assert (known.runs.total, known.deadlines) == (6.0, [1.0, 1.0])
    assert (unknown.runs.total, sum(unknown.waits.counts), unknown.deadlines) == (1.0, 0.0, [0.0, 0.0])


def test_a_series_is_what_its_row_tells() -> None:
    series = Series.empty()
    series.add(Run("a", "", 2.0, 0, 90.0, in_time=False))
    assert len(series.row()) == ROW
    assert Series.of(series.row()).row() == series.row()
