"""Objectives, pure: what is allowed, when one is breached, and what yields to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from celery_dynprio.engine.guard import Yielding, describe
from celery_dynprio.errors import ArgumentError
from celery_dynprio.objectives import MAX_NAMES, Names, Objective, Standing
from celery_dynprio.testing import NOW, pending_task

PLAIN = Objective("checkouts", "shop.checkout", 5)
DEGRADES = replace(PLAIN, on_breach="degrade", expendable=["shop.report", "bulk.*"], hold_at_most=60)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": ""}, "name = ''"),
        ({"match": ""}, "match = ''"),
        ({"match": ["shop.*", 7]}, r"match = \['shop.*', 7\]"),
        ({"within": 0}, "within = 0"),
        ({"within": True}, "within = True"),
        ({"within": float("inf")}, "within = inf"),
        ({"within": float("nan")}, "within = nan"),
        ({"window": 10**400}, "window = 10+"),
        ({"target": 1.01}, "target = 1.01"),
        ({"target": 0.0}, "target = 0.0"),
        ({"window": 9.9}, "window = 9.9"),
        ({"on_breach": "panic", "expendable": "bulk.*"}, "on_breach = 'panic'"),
        ({"on_breach": "degrade"}, r"expendable = \(\)"),
        ({"expendable": "bulk.*"}, "expendable = 'bulk.*'"),
        ({"hold_at_most": -1}, "hold_at_most = -1"),
        ({"hook": "proj:hook"}, "hook = 'proj:hook'"),
    ],
)
def test_a_wrong_value_is_named_with_its_objective(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=f"Objective {wrong.get('name', 'checkouts')!r}: {said}: use "):
        replace(PLAIN, **wrong)


def test_attainment_counts_what_is_overdue_already() -> None:
    assert Standing(PLAIN).attained is None
    assert Standing(PLAIN, started=8, in_time=8, overdue=2).attained == 0.8
    assert Standing(PLAIN, overdue=3).attained == 0.0


@pytest.mark.parametrize(
    ("in_time", "before", "after"),
    [
        (95, False, False),
        (94, False, True),
        (95, True, True),  # recovered is what is half way from the target to 1
        (97, True, True),
        (98, True, False),
    ],
)
def test_a_breach_ends_well_above_the_target(in_time: int, *, before: bool, after: bool) -> None:
    assert Standing(PLAIN, 100, in_time, since=NOW if before else None).is_breached is after


def test_without_any_task_nothing_is_breached() -> None:
    assert not Standing(PLAIN, since=NOW).is_breached


def test_names_are_matched_by_globs_and_remembered_within_a_bound() -> None:
    names = Names(["shop.*", ["*.report", "nightly"], ()])
    assert [names.matching(name) for name in ("shop.report", "shop.x", "nightly", "Shop.x")] == [(0, 1), (0,), (1,), ()]
    for number in range(2 * MAX_NAMES):
        assert names.matching(f"hostile {number}") == ()
    assert len(names._known) <= MAX_NAMES
    assert names.matching("shop.report") == (0, 1)


def test_who_yields_to_whom() -> None:
    breached = Standing(DEGRADES, 1, 0, since=NOW - 5)
    yielding = Yielding([Standing(PLAIN, since=NOW), breached], NOW)
    assert yielding
    assert yielding.to(pending_task("shop.report", waited=59)) is DEGRADES
    assert yielding.to(pending_task("bulk.mail")) is DEGRADES
    assert not yielding.yields(pending_task("shop.report", waited=60)), "held for long enough"
    assert not yielding.yields(replace(pending_task("shop.report"), pinned=3)), "somebody decided otherwise"
    assert not yielding.yields(pending_task("shop.checkout"))
    assert not Yielding([Standing(DEGRADES), Standing(PLAIN, since=NOW)], NOW)


def test_what_an_objective_is_for_never_yields_to_it() -> None:
    greedy = replace(DEGRADES, match="shop.*", expendable="*")
    yielding = Yielding([Standing(greedy, since=NOW)], NOW)
    assert not yielding.yields(pending_task("shop.report"))
    assert yielding.yields(pending_task("bulk.mail"))


def test_what_is_said() -> None:
    assert describe(Standing(DEGRADES, 90, 81, 10, since=NOW)) == (
        "objective 'checkouts' is breached: 81.0% in time, target 95.0% within 5 s (90 started, 10 overdue); "
        "holding back shop.report, bulk.*, each for 60 s at most"
    )
    assert describe(Standing(PLAIN)) == (
        "objective 'checkouts' is met: nothing started, target 95.0% within 5 s (0 started, 0 overdue)"
    )
    assert describe(Standing(DEGRADES, 1, 1)).endswith("; nothing is held back for it")
