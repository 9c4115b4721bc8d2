"""Lengths of time in the ways in which people write them."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest

from celery_dynprio import Filter, Objective
from celery_dynprio.durations import seconds
from celery_dynprio.errors import ArgumentError


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, 3),
        (0.5, 0.5),
        (-1, -1),
        ("30", 30.0),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("30s", 30.0),
        (" 5 m ", 300.0),
        ("1h30m", 5400.0),
        ("1h 30M", 5400.0),
        ("250ms", 0.25),
        (".5s", 0.5),
        ("2d", 172_800.0),
        (timedelta(days=1, milliseconds=1), 86_400.001),
    ],
)
def test_what_is_understood(value: object, expected: float) -> None:
    assert seconds(value) == pytest.approx(expected)


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "s",
        "5x",
        "5 minutes",
        "5m later",
        "-5m",
        "5m,3s",
        "inf",
        "nan",
        "9" * 400 + "s",
        math.inf,
        math.nan,
        True,
        None,
        [5],
        10**400,
    ],
)
def test_what_is_not(value: object) -> None:
    assert seconds(value) is None


def test_a_filter_takes_them() -> None:
    assert Filter(older=timedelta(hours=1)) == Filter(older="1h") == Filter(older=3600)
    assert Filter(older=0).selective
    with pytest.raises(
        ArgumentError, match=r"older = datetime.timedelta\(days=-1\): use seconds as a number, a timedelta"
    ):
        Filter(older=timedelta(days=-1))


def test_an_objective_takes_them() -> None:
    promise = Objective("soon", "*", within="5m", window=timedelta(hours=1), hold_at_most="1d")
    assert (promise.within, promise.window, promise.hold_at_most) == (300.0, 3600.0, 86_400.0)
    with pytest.raises(
        ArgumentError, match=r"Objective 'soon': window = '9s': use seconds .*, 10 s or more, at most 1e"
    ):
        Objective("soon", "*", within="5m", window="9s")
