"""What every store of histograms does."""

from __future__ import annotations

from celery_dynprio.models import Run
from celery_dynprio.ports.histograms import BOUNDS, SeriesKey
from tests.contract.conftest import Connect


def test_runs_are_counted_by_task_and_level(connect: Connect) -> None:
    histograms = connect().stores.histograms()
    assert histograms.read() == {}
    histograms.add([Run("a", "x", 2.0, 3, 0.5, in_time=True)] * 2 + [Run("bé b", "", 1e-9)])
    histograms.add([Run("a", "y", 4.0, 3, 700.0, in_time=False), Run("a", "y", 4.0, 4)])
    found = connect().stores.histograms().read()
    assert set(found) == {SeriesKey("a", 3), SeriesKey("a", 4), SeriesKey("bé b", None)}
    series = found[SeriesKey("a", 3)]
    assert (series.runs.total, series.waits.total, series.deadlines) == (8.0, 701.0, [2.0, 1.0])
    assert (series.waits.counts[BOUNDS.index(1.0)], series.waits.counts[BOUNDS.index(1800.0)]) == (2, 1)
    assert sum(series.runs.counts) == sum(series.waits.counts) == 3
    assert sum(found[SeriesKey("a", 4)].waits.counts) == 0


def test_more_series_than_one_call_takes_are_all_kept(connect: Connect) -> None:
    connect().stores.histograms().add([Run(f"task {number}", "", 1.0, 0) for number in range(75)])
    assert len(connect().stores.histograms().read()) == 75
