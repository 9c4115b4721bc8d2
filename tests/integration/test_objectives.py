"""What is held back for an objective, in a real Redis and without workers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from celery import Celery

from celery_dynprio import DynPrio, Objective
from celery_dynprio.assembly import reprioritizers
from celery_dynprio.brokers.redis.attainment import RedisAttainment
from celery_dynprio.brokers.redis.backlog import RedisBacklog
from celery_dynprio.brokers.redis.broker import RedisBroker
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.usage import RedisUsage
from celery_dynprio.cli.explain import explanation_lines
from celery_dynprio.engine.guard import Guard
from celery_dynprio.models import OVERFLOW, Move, Report, Run, Start
from celery_dynprio.operators import views
from celery_dynprio.operators.operations import Operations
from celery_dynprio.operators.workers import Workers
from tests.servers import Database

CHECKOUTS = Objective("checkouts", "checkout", within=5, on_breach="degrade", expendable="report")


class Broken:
    """An app whose objective is breached."""

    def __init__(self, url: str, *objectives: Objective) -> None:
        self.app = Celery("shop", broker=url, set_as_current=False)
        self.app.conf.update(dynprio_objectives=objectives, dynprio_learn=False, dynprio_metrics_port=9808)
        self.dynprio = DynPrio(self.app)
        self.client = RedisClient.from_app(self.app)
        self.operations = Operations(self.app, RedisBroker(self.client), self.dynprio.settings, "ada@ops")
        self.attainment = RedisAttainment(self.client, objectives)
        self.attainment.add([Start("checkout", 9.0)])

    def tick(self, owner: str = "test", **changes: Any) -> Report:
        settings = replace(self.dynprio.settings, **changes)
        return reprioritizers(RedisBroker(self.client), settings, owner, dry_run=owner == "dry")[0].tick()

    def send(self, name: str, **options: Any) -> str:
        return str(self.app.send_task(name, **options).id)

    def places(self) -> dict[str, int]:
        return {turn.task.id: turn.place for turn in self.operations.pending(workers=Workers()).turns}


@pytest.fixture
def broken(valkey: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broken]:
    monkeypatch.setattr(views, "ask", lambda _app: Workers({"w": 1}, {"w": frozenset({"celery"})}))
    made = Broken(valkey.url, CHECKOUTS)
    yield made
    made.client.close()
    made.app.close()


def test_a_task_with_an_eta_is_not_overdue(broken: Broken) -> None:
    broken.send("checkout", countdown=3600)
    broken.send("checkout")
    now = broken.tick().started + 60
    reprioritizer = reprioritizers(RedisBroker(broken.client), broken.dynprio.settings, "test")[0]
    reprioritizer.clock = lambda: now
    assert reprioritizer.tick().standings[0].overdue == 1


def test_what_is_held_back_is_expected_after_all_else(broken: Broken) -> None:
    RedisUsage(broken.client).add([Run("report", "", 5.0), Run("other", "", 5.0)])
    report = broken.send("report")
    broken.tick()
    others = [broken.send("other"), broken.send("other", dynprio={"weight": 0})]
    backlog = RedisBacklog(broken.client, "celery")
    moves = [
        Move(task, level, OVERFLOW, 0.5, "overflow")
        for level, tasks in enumerate(backlog.read(0).levels)
        for task in tasks
    ]
    backlog.apply(moves)
    turns = broken.operations.pending().turns
    assert [turn.task.id for turn in turns] == [*others, report]
    assert [turn.expected is None for turn in turns] == [False, False, True]
    told = broken.operations.explain(report)
    assert (told.held_back_for, told.in_front) == ("checkouts", None)
    assert "when the objective recovers" in "\n".join(explanation_lines(told, 0.0, None))
    assert broken.operations.explain(others[0]).in_front is not None


@pytest.mark.parametrize("resumed", [False, True])
def test_drain_brings_back_what_is_held_back(broken: Broken, *, resumed: bool) -> None:
    report = broken.send("report")
    broken.tick()
    assert broken.places() == {report: OVERFLOW}
    (drained,) = broken.operations.drain(0.0)
    assert drained.returned == 1
    assert broken.places()[report] >= 0
    if resumed:
        broken.operations.resume()
        broken.tick()
        assert broken.places() == {report: OVERFLOW}


@pytest.mark.parametrize(
    "objectives", [(), (replace(CHECKOUTS, match="check*"),), (replace(CHECKOUTS, expendable="x"),)]
)
def test_other_settings_bring_it_back(broken: Broken, objectives: tuple[Objective, ...]) -> None:
    report = broken.send("report")
    broken.tick()
    assert broken.places() == {report: OVERFLOW}
    broken.tick(objectives=objectives)
    assert broken.places()[report] >= 0


def test_a_task_of_a_plain_producer_is_held_no_longer_because_leaders_change(broken: Broken) -> None:
    plain = Celery("plain", broker=broken.app.conf.broker_url, set_as_current=False)
    report = str(plain.send_task("report").id)
    plain.close()
    began = broken.tick().started
    assert broken.places() == {report: OVERFLOW}
    assert broken.operations.explain(report).moves[-1].reason == "objective"
    later = reprioritizers(RedisBroker(broken.client), broken.dynprio.settings, "test")[0]
    later.clock = lambda: began + CHECKOUTS.hold_at_most
    assert [move.reason for move in later.tick().moves] == ["refill"]


def test_ticks_that_are_rare_do_not_forget_what_is_overdue_elsewhere(broken: Broken) -> None:
    broken.client.redis.delete(*broken.client.redis.scan_iter("dynprio:objective:*"))
    settings = replace(broken.dynprio.settings, queues=("celery", "mails"), interval=60.0)
    broken.send("checkout")
    now, turned = time.time(), 0
    both = reprioritizers(RedisBroker(broken.client), settings, "test")
    kept = RedisAttainment(broken.client, settings.objectives, lambda: now, settings.interval)
    for each in both:
        each.clock = lambda: now
        each.guard = Guard(each.backlog.queue, settings.objectives, kept)
    for _ in range(5):
        now += 60
        turned += sum(len(each.tick().turned) for each in reversed(both))
    assert turned == 1
