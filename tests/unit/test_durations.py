"""Lengths of time in the ways in which people write them."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest

from celery_dynprio.durations import seconds


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
