"""How long a queue takes to work off what waits, and who starves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_dynprio.engine.drain import PATIENCE, SHORTEST_PATIENCE, Drain
from celery_dynprio.models import PendingTask, RunningTask, Snapshot
from celery_dynprio.runtimes import Runtimes


def snapshot(*ids: str, depth: int | None = None) -> Snapshot:
    tasks = tuple(PendingTask(each, "work", 0.0) for each in ids)
    return Snapshot((tasks,), (len(tasks) if depth is None else depth,), {})


def test_patience_is_what_the_policy_says_until_something_is_seen() -> None:
    drain = Drain()
    assert drain.patience(1200.0) == 1200.0
    assert drain.patience(None) is None
    assert drain.tasks(1.0) == 0


def test_a_task_starves_when_it_waited_longer_than_all_that_waits_takes() -> None:
    drain = Drain()
    for second in range(20):
        drain.note(waiting=400.0, left=8.0, tasks=4, now=float(second))
    assert drain.patience(1200.0) == pytest.approx(PATIENCE * 50)
    assert drain.patience(45.0) == 45.0
    assert drain.patience(None) is None
    assert drain.tasks(2.0) == 8
    assert drain.credit.left(crowded=False) == 8.0  # what all workers do in a second


def test_what_leaves_soon_leaves_until_the_next_tick_at_least() -> None:
    drain = Drain()
    for second in range(0, 20, 5):
        drain.note(waiting=400.0, left=40.0, tasks=40, now=float(second))
    assert drain.soon(1.0) == drain.tasks(5.0)
    assert drain.soon(9.0) == drain.tasks(9.0)
    drain.note(waiting=0.0, left=0.0, tasks=0, now=20.0)
    drain.note(waiting=400.0, left=0.0, tasks=0, now=900.0)
    assert drain.soon(1.0) == drain.tasks(1.0)


def test_nobody_starves_in_a_moment() -> None:
    drain = Drain()
    for second in range(5):
        drain.note(waiting=1.0, left=8.0, tasks=8, now=float(second))
    assert drain.patience(1200.0) == SHORTEST_PATIENCE


def test_a_time_in_which_nothing_waited_does_not_show_what_the_workers_can_do() -> None:
    drain = Drain()
    for second in range(10):
        drain.note(waiting=80.0, left=8.0, tasks=8, now=float(second))
    before = drain.patience(1200.0)
    for second in range(10, 100):
        drain.note(waiting=0.0, left=0.0, tasks=0, now=float(second))
    drain.note(waiting=80.0, left=0.0, tasks=0, now=100.0)
    assert drain.patience(1200.0) == pytest.approx(before, rel=0.15)


def test_tasks_that_left_are_told_from_those_that_moved() -> None:
    drain, runtimes = Drain(), Runtimes({"work": 2.0})
    drain.follow(snapshot(*map(str, range(10))), runtimes, (), 0.0)
    drain.follow(snapshot(*map(str, range(4, 10))), runtimes, (), 1.0)
    assert drain.tasks(1.0) == 4
    assert drain.patience(1200.0) == SHORTEST_PATIENCE  # 6 tasks of 2 s, 8 s of work left in a second
    drain.follow(snapshot(*map(str, range(4, 10)), depth=600), runtimes, (), 2.0)
    assert drain.patience(10_000.0) == pytest.approx(PATIENCE * 1200 / 4, rel=0.05)


def test_what_starving_tasks_took_is_spent_once_they_left() -> None:
    drains, runtimes = (Drain(), Drain()), Runtimes({"work": 2.0})
    (lifted,), parked = snapshot("2").levels[0], PendingTask("parked", "work", 0.0)

    def spent(now: float, *ids: str) -> float:
        for drain in drains:
            drain.follow(snapshot(*ids), runtimes, (), now)
        drains[1].note_lifted([lifted, parked])
        first, second = (drain.credit.left(crowded=False) for drain in drains)
        return first - second

    assert spent(0.0, *map(str, range(10))) == 0.0
    assert spent(1.0, *map(str, range(2, 10)), "parked") == 0.0
    assert spent(2.0, *map(str, range(2, 10)), "parked") == 0.0
    assert spent(3.0, *map(str, range(3, 10))) == 2 * 2.0


def test_runs_of_this_queue_show_what_its_workers_can_do() -> None:
    running = [RunningTask(str(number), name, "", 0.0) for number in range(8) for name in ("work", "other")]
    drain, many = Drain(), snapshot(*map(str, range(100)))
    for second in range(5):
        drain.follow(many, Runtimes({"work": 8.0}), running, float(second))
    assert drain.patience(1200.0) == pytest.approx(PATIENCE * 800 / 8)


@given(
    st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 1e9), st.integers(0, 10**6), st.floats(-10, 1e6)), max_size=30)
)
def test_patience_is_always_a_sensible_number(ticks: list[tuple[float, float, int, float]]) -> None:
    drain = Drain()
    for tick in ticks:
        drain.note(*tick)
        patience = drain.patience(1200.0)
        assert patience is not None
        assert SHORTEST_PATIENCE <= patience <= 1200.0
