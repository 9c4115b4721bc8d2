"""What every store of attainment counts and remembers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from celery_dynprio.models import Start
from celery_dynprio.objectives import Objective
from celery_dynprio.ports.stores import Attainment
from tests.contract.conftest import Connect

CHECKOUTS = Objective("checkouts", "shop.checkout", within=5, window=100)
ALL = Objective("all", "shop.*", within=60, window=20)


class Clock:
    """A clock that is set."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def figures(attainment: Attainment) -> list[tuple[int, int, int]]:
    return [(each.started, each.in_time, each.overdue) for each in attainment.read()]


def test_starts_count_for_as_long_as_the_window_is(connect: Connect) -> None:
    clock = Clock()
    one = connect().stores.attainment([CHECKOUTS, ALL], clock)
    assert figures(one) == [(0, 0, 0), (0, 0, 0)]
    one.add([Start("shop.checkout", 4.0), Start("shop.checkout", 6.0), Start("shop.report", 59.0), Start("x", 0.0)])
    other = connect().stores.attainment([CHECKOUTS, ALL], clock)
    assert figures(other) == [(2, 1, 0), (3, 3, 0)]
    clock.now += 22
    assert figures(other) == [(2, 1, 0), (0, 0, 0)]
    clock.now += 90
    assert figures(other) == [(0, 0, 0), (0, 0, 0)]


def test_overdue_tasks_are_those_of_all_queues_and_the_last_count_of_each(connect: Connect) -> None:
    clock = Clock()
    attainment = connect().stores.attainment([CHECKOUTS, ALL], clock)
    attainment.tell("celery", {0: 3, 1: 4})
    attainment.tell("mail", {1: 2})
    attainment.tell("celery", {0: 1})
    assert figures(connect().stores.attainment([CHECKOUTS, ALL], clock)) == [(0, 0, 1), (0, 0, 2)]
    clock.now += 31
    assert figures(attainment) == [(0, 0, 0), (0, 0, 0)]


def test_one_reprioritizer_turns_a_breach_and_one_turns_it_back(connect: Connect) -> None:
    clock = Clock()
    one, other = (connect().stores.attainment([CHECKOUTS], clock) for _ in range(2))
    (standing,) = one.read()
    breached = one.turn(standing)
    assert breached == replace(standing, since=clock.now)
    assert other.turn(standing) is None
    clock.now += 1
    assert [each.since for each in other.read()] == [clock.now - 1]
    assert other.turn(breached) == standing
    assert one.turn(breached) is None
    assert [each.since for each in one.read()] == [None]


def test_the_rate_is_that_of_late(connect: Connect) -> None:
    clock = Clock()
    attainment = connect().stores.attainment([CHECKOUTS], clock)
    for _ in range(100):
        attainment.add([Start("shop.checkout", 1.0)] * 2)
        clock.now += 1
    (standing,) = attainment.read()
    assert standing.rate == pytest.approx(2.0, rel=0.3)
    clock.now += 50
    assert attainment.read()[0].rate == 0
