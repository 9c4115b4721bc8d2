"""Who follows the runs of an app's tasks."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery, signals

from celery_dynprio import runs


class Noting:
    """A follower that notes what it is told."""

    def __init__(self, name: str, notes: list[tuple[Any, ...]], *, fails: bool = False) -> None:
        self._name = name
        self._notes = notes
        self._fails = fails

    def started(self, task: Any, request: Any) -> None:
        self._notes.append((self._name, "started", task.name, request.id))
        self._fail()

    def ended(self, task: Any, request: Any, state: object, retval: object) -> None:
        self._notes.append((self._name, "ended", task.name, request.id, state, retval))
        self._fail()

    def _fail(self) -> None:
        if self._fails:
            raise ValueError("a follower's own trouble")


def make(name: str) -> Celery:
    return Celery(name, broker="memory://", set_as_current=False)


def run(app: Celery, result: object = 7) -> None:
    @app.task(name="work")
    def work() -> object:
        return result

    assert work.apply(task_id="id").get() == result


@pytest.fixture
def notes() -> list[tuple[Any, ...]]:
    return []


def test_each_run_is_told_in_the_order_of_the_followers(notes: list[tuple[Any, ...]]) -> None:
    app = make("told")
    runs.follow(app, "a", Noting("a", notes))
    runs.follow(app, "b", Noting("b", notes))
    runs.follow(app, "a", Noting("another a", notes))
    run(app)
    run(make("another app"))
    assert notes == [
        ("a", "started", "work", "id"),
        ("b", "started", "work", "id"),
        ("a", "ended", "work", "id", "SUCCESS", 7),
        ("b", "ended", "work", "id", "SUCCESS", 7),
    ]


def test_a_follower_that_fails_harms_neither_the_task_nor_the_next_one(
    notes: list[tuple[Any, ...]], caplog: pytest.LogCaptureFixture
) -> None:
    app = make("failing")
    runs.follow(app, "a", Noting("a", notes, fails=True))
    runs.follow(app, "b", Noting("b", notes))
    run(app)
    assert [note[:2] for note in notes] == [("a", "started"), ("b", "started"), ("a", "ended"), ("b", "ended")]
    assert [record.getMessage().split(" failed ")[1] for record in caplog.records] == [
        "at the start of work",
        "at the end of work",
    ]


def test_the_last_one_leaves_app_and_signals_as_they_were(notes: list[tuple[Any, ...]]) -> None:
    app = make("left")
    watched = signals.task_prerun, signals.task_postrun
    before = [list(signal.receivers or ()) for signal in watched], set(vars(app))
    for name in ("a", "b"):
        runs.follow(app, name, Noting(name, notes))
    assert [len(signal.receivers or ()) for signal in watched] == [len(each) + 1 for each in before[0]]
    for name in ("a", "a", "b", "b"):
        runs.unfollow(app, name)
    assert ([list(signal.receivers or ()) for signal in watched], set(vars(app))) == before
    run(app)
    assert notes == []
