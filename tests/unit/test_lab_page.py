"""The page of a study: whole in one file, and as safe as its names are not."""

from __future__ import annotations

import random
import re
from functools import partial
from xml.etree import ElementTree as ET

import pytest

from celery_dynprio.lab.charts import Bar, Line, bars, lines, log_axis, plain_axis, seconds_axis, share_axis
from celery_dynprio.lab.contenders import Production, contenders
from celery_dynprio.lab.page import page
from celery_dynprio.lab.recording import Task
from celery_dynprio.lab.replay import Fleet
from celery_dynprio.lab.study import study
from celery_dynprio.lab.workload import Workload
from celery_dynprio.policies import Age, Weight

HOSTILE = "<script>alert(1)</script>"


def drawn(seeds: int) -> str:
    numbers, at, tasks = random.Random(4), 0.0, []
    for _ in range(80):
        at += numbers.expovariate(1.0)
        name = numbers.choice([HOSTILE, "shop.report"])
        deadline = numbers.choice([None, 5.0])
        tasks.append(Task(at, name, numbers.expovariate(0.5), f"key & {HOSTILE}", numbers.choice([1.0, 9.0]), deadline))
    policies = {"a&b": 1 * Weight() + 1 * Age()}
    workload = Workload(partial(iter, tasks), slots=2, load=1.0)
    return page(study(workload, contenders(policies, Production()), Fleet(2), seeds=seeds))


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_page_needs_nothing_from_elsewhere_and_runs_nothing(seeds: int) -> None:
    shown = drawn(seeds)
    assert not re.search(r"<(script|link|img|iframe|object)|https?://|url\(|@import|\bon\w+=", shown)
    assert "prefers-color-scheme: dark" in shown
    assert 'name="viewport"' in shown
    assert ("Played 3 times" in shown) == (seeds == 3)
    assert ('class="whisker"' in shown) == (seeds == 3)


def test_every_chart_is_well_formed_and_labelled() -> None:
    shown = drawn(1)
    charts = re.findall(r"<svg.*?</svg>", shown, re.DOTALL)
    assert len(charts) >= 10
    for chart in charts:
        assert ET.fromstring(chart).get("aria-label")  # noqa: S314 - our own
        assert "nan" not in chart
    assert "a&amp;b" in shown
    assert "<code>1 * Weight() + 1 * Age(saturation=300.0)</code>" in shown


def test_what_is_beyond_an_axis_stays_on_the_chart() -> None:
    chart = lines([Line("a", "c0", [(-1.0, -5.0), (2.0, 1e9)])], share_axis("share"), seconds_axis(100.0), "label")
    points = ET.fromstring(chart).findall(".//polyline")[0].get("points")  # noqa: S314
    assert points == "44.0,196.0 344.0,10.0"


def test_bars_are_as_long_as_their_values() -> None:
    chart = ET.fromstring(bars([Bar("a", "c0", 2.0, None, None, "2 s"), Bar("b", "c1", 1.0, 0.5, 4.0, "1 s")], "x"))  # noqa: S314
    assert [rect.get("width") for rect in chart.findall("rect")] == ["145.0", "72.5"]
    assert len(chart.findall("path")) == 1
    assert bars([], "nothing").startswith("<svg")


@pytest.mark.parametrize(
    ("least", "most", "ticks"),
    [
        (0, 1, ["0", "0.5", "1"]),
        (0, 100, ["0", "50", "100"]),
        (1, 4.6, ["1", "2", "3", "4"]),
        (3, 3, ["3"]),
    ],
)
def test_ticks_are_round_numbers(least: float, most: float, ticks: list[str]) -> None:
    assert [text for _, text in plain_axis(least, most, "x").ticks] == ticks


@pytest.mark.parametrize(
    ("least", "most", "ticks", "middle"),
    [
        (0.01, 100, ["0.01", "0.1", "1", "10", "100"], 1.0),
        (0.02, 30, ["0.01", "0.1", "1", "10"], None),
        (5, 5, ["1"], None),
    ],
)
def test_a_logarithmic_axis_shows_powers_of_ten(
    least: float, most: float, ticks: list[str], middle: float | None
) -> None:
    axis = log_axis(least, most, "x")
    assert [text for _, text in axis.ticks] == ticks
    assert axis.place(most) == pytest.approx(1.0)
    assert middle is None or axis.place(middle) == pytest.approx(0.5)
