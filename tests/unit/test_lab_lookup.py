"""Measures by what people type."""

from __future__ import annotations

import pytest

from celery_dynprio.errors import ArgumentError
from celery_dynprio.lab.comparison import OVERALL, Measure
from celery_dynprio.lab.lookup import measure_named

CLASSES = tuple(
    Measure(title, lambda found: found.wait.mean)
    for name in ("shop.tasks.checkout", "shop.tasks.report", "weight 9", "(others)")
    for title in (f"mean wait of {name}", f"wait of {name}, p95", f"{name} started in time")
)
ALL = (*OVERALL, *CLASSES)


@pytest.mark.parametrize(
    ("text", "title"),
    [
        *((each.title, each.title) for each in ALL),
        ("in time", "started in time"),
        ("Weighted Mean", "weighted mean wait"),
        ("mean", "mean wait"),
        ("p95", "wait, p95"),
        ("longest", "longest wait"),
        ("slowdown", "mean bounded slowdown"),
        ("fairness", "fairness between keys (Jain)"),
        ("tardiness", "weighted tardiness"),
        ("weight 9 p95", "wait of weight 9, p95"),
        ("p95 of checkout", "wait of shop.tasks.checkout, p95"),
        ("checkout in time", "shop.tasks.checkout started in time"),
        ("mean report", "mean wait of shop.tasks.report"),
    ],
)
def test_a_measure_is_found(text: str, title: str) -> None:
    assert measure_named("objective", text, ALL).title == title


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("checkout", "objective = 'checkout': which of these: mean wait of shop.tasks.checkout; wait of shop"),
        ("p98", "objective = 'p98': there is no such measure, but: mean wait; weighted mean wait; "),
        ("", "objective = '': there is no such measure, but: "),
        ("out p95", "there is no such measure"),
    ],
)
def test_what_is_unclear_is_refused_with_what_there_is(text: str, problem: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        measure_named("objective", text, ALL)
    assert problem in str(caught.value)
