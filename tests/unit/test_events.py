"""Events of moves: what they tell, how many are sent, and what Celery's own State makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from celery.events.state import State
from celery.states import PENDING, RECEIVED, RETRY, STARTED, SUCCESS

from celery_dynprio import DynPrio
from celery_dynprio.models import OVERFLOW, Move, Outcome, Report, Role
from celery_dynprio.monitoring.events import BREACHED, RECOVERED, TYPE, EventSender, follow
from celery_dynprio.objectives import Objective, Standing
from celery_dynprio.testing import NOW, pending_task
from tests.apps import make_app


class Kept:
    """A store of events that are not sent."""

    def __init__(self) -> None:
        self.events: list[Mapping[str, Any]] = []

    def add(self, entries: Sequence[Mapping[str, Any]], /) -> None:
        self.events += entries

    def close(self) -> None:
        """Nothing is held."""


def moved(*outcomes: Outcome) -> Report:
    made = [Move(pending_task("work"), 9, 0, 0.12345, "score") for _ in outcomes]
    return Report("orders", Role.LEADER, NOW, moves=made, outcomes=outcomes)


def sent(*reports: Report, **options: Any) -> tuple[list[Mapping[str, Any]], int]:
    """What is sent of these reports, and how much is dropped."""
    kept = Kept()
    events = EventSender(make_app("memory://"), lambda: kept, **options)
    for report in reports:
        events.observe(report)
    events.close()
    return kept.events, events.dropped()


def test_each_move_that_was_made_is_told() -> None:
    report = moved(Outcome.MOVED, Outcome.GONE, Outcome.REFUSED)
    (event,), dropped = sent(report)
    assert event.pop("timestamp") > NOW  # type: ignore[attr-defined]
    assert event == {
        "type": TYPE,
        "uuid": report.moves[0].task.id,
        "name": "work",
        "queue": "orders",
        "from": "P9",
        "to": "P0",
        "score": 0.123,
        "reason": "score",
        "trace_id": "",
    }
    assert dropped == 0


def test_without_moves_only_objectives_are_told() -> None:
    standing = Standing(Objective("checkouts", "checkout", 5), started=9, in_time=8, overdue=1, since=NOW)
    report = replace(moved(Outcome.MOVED), turned=[standing, replace(standing, since=None)])
    events, dropped = sent(report, moves=False)
    told = {"objective": "checkouts", "attained": 0.8, "target": 0.95, "within": 5, "started": 9, "overdue": 1}
    assert [(each["type"], each.items() >= told.items()) for each in events] == [(BREACHED, True), (RECOVERED, True)]
    assert dropped == 0
    known = State()
    follow(known)
    for number, kind in enumerate([BREACHED, RECOVERED]):
        known.event(event(kind, number, uuid=None, **told))
    assert not known.tasks


def test_a_parked_place_is_named() -> None:
    move = Move(pending_task(), OVERFLOW, 3, 0.5, "refill")
    (event,), _ = sent(Report("orders", Role.LEADER, NOW, moves=[move], outcomes=[Outcome.MOVED]))
    assert (event["from"], event["to"]) == ("parked", "P3")


def test_more_than_the_rate_is_dropped_and_counted() -> None:
    clock = iter([0.0, *[0.1] * 3, *[0.9] * 3, *[1.05] * 3])
    made = moved(Outcome.MOVED, Outcome.MOVED, Outcome.MOVED)
    events, dropped = sent(made, made, made, rate=2, clock=lambda: next(clock))
    assert (len(events), dropped) == (4, 5)


def event(kind: str, number: int, **fields: Any) -> dict[str, Any]:
    hostname = "dynprio@host" if "reprioritized" in kind else "worker@host"
    at = {"timestamp": NOW + number, "local_received": NOW + number, "clock": number}
    return {"type": kind, "uuid": "1", "name": "work", "hostname": hostname, **at, **fields}


MOVED = {"queue": "orders", "from": "P9", "to": "P0", "score": 0.5, "reason": "score"}

STORIES = [
    (["task-sent"], PENDING),
    (["task-received"], RECEIVED),
    (["task-received", "task-started", "task-retried"], RETRY),
    (["task-received", "task-started", "task-succeeded"], SUCCESS),
]


@pytest.mark.parametrize("following", [True, False])
@pytest.mark.parametrize(("story", "state"), STORIES)
def test_a_move_changes_no_state_and_is_no_worker(story: list[str], state: str, *, following: bool) -> None:
    known = State()
    if following:
        follow(known)
    for number, kind in enumerate([*story, TYPE]):
        known.event(event(kind, number, **(MOVED if kind == TYPE else {})))
    assert known.tasks["1"].state == state
    assert "dynprio@host" not in known.workers
    for number, kind in enumerate(["task-received", "task-started", "task-succeeded"], 10):
        known.event(event(kind, number))
    assert known.tasks["1"].state == SUCCESS


def test_a_move_before_the_start_hides_no_start() -> None:
    known = State()
    follow(known)
    for number, kind in enumerate([TYPE, "task-received", TYPE, "task-started"]):
        known.event(event(kind, number, **(MOVED if kind == TYPE else {})))
    assert known.tasks["1"].state == STARTED
    assert known.tasks["1"].worker.hostname == "worker@host"


def test_of_the_group_of_tasks_it_would() -> None:
    """Why the type is not ``task-reprioritized``; once this fails, it may be."""
    known = State()
    for number, kind in enumerate(["task-sent", "task-reprioritized", "task-received", "task-started"]):
        known.event(event(kind, number))
    assert known.tasks["1"].state == "REPRIORITIZED"
    assert "dynprio@host" in known.workers


def test_the_state_of_an_app_follows_while_we_are_installed() -> None:
    app = make_app("memory://")
    dynprio = DynPrio(app)
    known = app.events.State()
    known.event(event(TYPE, 0, **MOVED))
    assert known.tasks["1"].reprioritized == MOVED
    dynprio.uninstall()
    assert app.events.state_cls == "celery.events.state:State"


def test_a_state_of_the_users_own_stays() -> None:
    app = make_app("memory://")
    app.events.state_cls = own = "tests.unit.test_events:State"
    dynprio = DynPrio(app)
    assert app.events.state_cls == own
    dynprio.uninstall()
    assert app.events.state_cls == own


def test_who_follows_lists_a_task_that_nobody_told_of() -> None:
    known = State()
    known.event(event(TYPE, 0, **MOVED))
    assert not known.tasks
    follow(known)
    known.event(event(TYPE, 1, **MOVED))
    ((task_id, task),) = known.tasks_by_time()
    assert (task_id, task.state, task.name, task.worker) == ("1", PENDING, "work", None)
    assert task.reprioritized == MOVED
