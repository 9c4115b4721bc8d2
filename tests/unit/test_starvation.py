"""How much of the workers' time starving tasks get."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_dynprio.engine.starvation import (
    LEAST_SHARE,
    NEAR_DEADLINE,
    SHARE,
    STARVING_PART,
    Credit,
    Starvation,
    is_near_deadline,
)
from celery_dynprio.models import PendingTask

NOW = 1000.0
NUMBERS = count()


def task(seconds: float = 1.0, deadline: float | None = None) -> PendingTask:
    """A task whose weight says how long it runs."""
    return PendingTask(f"{next(NUMBERS)}", "a.task", NOW - 100, seconds, deadline=deadline)


def starvation(credit: Credit, starts: int = 1) -> Starvation:
    return Starvation(60.0, credit, lambda task: task.weight, starts)


def credit_of(work: float) -> Credit:
    """Of a queue that saw so much work leave in one second."""
    credit = Credit()
    credit.spend(credit.left(crowded=False))
    credit.earn(work, work, 1.0)
    return credit


def went(starving: Starvation, tasks: list[PendingTask], *levels: list[PendingTask], before: int = 0) -> int:
    """How many of these may go first, oldest first."""
    room = starving.room(levels or ([],), tasks[:before], NOW)
    return next((number for number, each in enumerate(tasks[before:]) if not room.take(each)), len(tasks) - before)


@given(
    works=st.lists(st.floats(0.1, 50), min_size=40, max_size=200),
    seconds=st.lists(st.floats(0.1, 500), min_size=1, max_size=20),
    crowded=st.booleans(),
)
def test_they_have_their_share_of_the_work_however_long_they_run(
    *, works: list[float], seconds: list[float], crowded: bool
) -> None:
    credit, had, longest = credit_of(0.0), 0.0, max(seconds)
    for number, work in enumerate(works):
        credit.earn(work, work, 1.0)
        if credit.left(crowded=crowded) > 0:
            credit.spend(seconds[number % len(seconds)])
            had += seconds[number % len(seconds)]
    assert had <= (LEAST_SHARE if crowded else SHARE) * sum(works) + longest


def test_the_share_is_not_saved_up() -> None:
    credit = Credit()
    for _ in range(1000):
        credit.earn(8.0, 8.0, 1.0)
    assert credit.left(crowded=False) == 8.0
    credit.earn(40.0, 8.0, 5.0)  # the next look was late
    assert credit.left(crowded=False) == 8.0 + SHARE * 40.0


def test_of_a_queue_that_was_just_found_one_may_go() -> None:
    assert went(starvation(Credit()), [task(100.0), task()]) == 1


def test_long_tasks_have_the_same_share_as_short_ones() -> None:
    credit = credit_of(16.0)
    assert went(starvation(credit), [task(1.0) for _ in range(20)]) == 8
    assert went(starvation(credit), [task(5.0) for _ in range(20)]) == 2
    assert went(starvation(credit), [task(5.0) for _ in range(20)], before=1) == 1
    assert went(starvation(credit), [task(500.0) for _ in range(20)], before=1) == 0


def test_behind_a_flood_at_level_0_they_get_on_as_well() -> None:
    flood = [task(1.0) for _ in range(100)]
    assert went(starvation(credit_of(0.0)), [task(2.0) for _ in range(50)], flood) == 100 * STARVING_PART / 2


def test_they_make_way_for_as_many_near_their_deadline_as_workers_start() -> None:
    credit = credit_of(10.0)
    near = [task(deadline=NOW + 5) for _ in range(4)]
    starving = [task() for _ in range(20)]
    assert went(starvation(credit, starts=5), starving, [], near) == 10 * SHARE
    assert went(starvation(credit, starts=4), starving, [], near) == 10 * LEAST_SHARE


@pytest.mark.parametrize(
    ("seconds", "near"), [(None, False), (-0.1, False), (0.0, True), (NEAR_DEADLINE, True), (NEAR_DEADLINE + 1, False)]
)
def test_a_deadline_that_has_passed_is_not_near(*, seconds: float | None, near: bool) -> None:
    assert is_near_deadline(task(deadline=None if seconds is None else NOW + seconds), NOW) is near
