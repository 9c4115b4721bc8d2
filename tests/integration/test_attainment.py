"""Attainment of objectives in a real Redis, counted by real workers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from celery_dynprio.brokers.redis.attainment import FRESH, RedisAttainment
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.engine.guard import Guard
from celery_dynprio.models import Snapshot, Start
from celery_dynprio.objectives import Objective, Standing
from tests.apps import make_app
from tests.conftest import MakeProject, StartWorker
from tests.processes import wait_until
from tests.servers import Database

CHECKOUTS = Objective("checkouts", "shop.checkout", within=5, window=100)
ALL = Objective("all", "shop.*", within=60, window=20)

BODY = """
    from celery_dynprio import DynPrio, Objective, dynprio_task
    from celery_dynprio.worker import sender

    sender.LAST_SEND_TIMEOUT = 60.0
    app.conf.update(dynprio_embedded=False, dynprio_learn=False)
    app.conf.dynprio_objectives = [Objective("soon", "*.work", within=30), Objective("never", "*.work", within=1e-9)]
    DynPrio(app)

    @dynprio_task(app=app)
    def work(): ...

    @app.task
    def other(): ...
"""


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def attainment(url: str, *objectives: Objective, clock: Clock) -> RedisAttainment:
    return RedisAttainment(RedisClient.from_app(make_app(url)), objectives or (CHECKOUTS, ALL), clock)


def figures(kept: RedisAttainment) -> list[tuple[int, int, int]]:
    return [(each.started, each.in_time, each.overdue) for each in kept.read()]


def test_starts_count_for_as_long_as_the_window_is(server: Database) -> None:
    clock = Clock()
    kept = attainment(server.url, clock=clock)
    assert figures(kept) == [(0, 0, 0), (0, 0, 0)]
    kept.add([Start("shop.checkout", 4.0), Start("shop.checkout", 6.0), Start("shop.report", 59.0), Start("x", 0.0)])
    kept.add([Start("shop.checkout", 5.0)])
    assert figures(attainment(server.url, clock=clock)) == [(3, 2, 0), (4, 4, 0)]
    clock.now += 22
    assert figures(kept) == [(3, 2, 0), (0, 0, 0)]
    clock.now += 76
    kept.add([Start("shop.checkout", 0.0)])
    assert figures(kept) == [(4, 3, 0), (1, 1, 0)]
    clock.now += 8
    assert figures(kept)[0] == (1, 1, 0)
    for key in server.client.scan_iter("dynprio:objective:*"):
        assert 0 < server.client.ttl(key) <= 200


def test_the_rate_is_that_of_late_and_falls_to_nothing(valkey: Database) -> None:
    clock = Clock()
    kept = attainment(valkey.url, clock=clock)  # windows of 100 and 20 s
    for _ in range(100):
        kept.add([Start("shop.checkout", 1.0)] * 2)
        clock.now += 1
    assert [each.rate for each in kept.read()] == pytest.approx([2, 2], rel=0.5)
    clock.now += 8
    assert [each.rate > 0 for each in kept.read()] == [True, False]
    clock.now += 8
    assert [(each.rate, each.started > 0) for each in kept.read()] == [(0, True), (0, True)]


def test_what_is_overdue_counts_while_somebody_says_so(valkey: Database) -> None:
    clock = Clock()
    kept = attainment(valkey.url, clock=clock)
    kept.tell("orders", {0: 3})
    kept.tell("mails 2", {0: 4, 1: 1})
    assert figures(kept) == [(0, 0, 7), (0, 0, 1)]
    clock.now += FRESH - 1
    kept.tell("orders", {})
    clock.now += 2
    assert figures(kept) == [(0, 0, 0), (0, 0, 0)]


def test_what_is_overdue_counts_until_the_next_tick_however_rare(valkey: Database) -> None:
    clock = Clock()
    rare = RedisAttainment(RedisClient.from_app(make_app(valkey.url)), [CHECKOUTS], clock, interval=60)
    rare.tell("orders", {0: 3})
    clock.now += 61
    assert figures(rare) == [(0, 0, 3)]
    clock.now += 60
    assert figures(rare) == [(0, 0, 0)]


def test_a_breach_is_noted_once_whoever_is_first(valkey: Database) -> None:
    clock = Clock()
    one, other = attainment(valkey.url, clock=clock), attainment(valkey.url, clock=clock)
    (met, _) = one.read()
    breached = one.turn(met)
    assert breached == Standing(CHECKOUTS, since=clock.now)
    clock.now += 7
    assert other.turn(met) is None
    assert other.read()[0] == breached
    assert other.turn(breached) == met
    assert one.turn(breached) is None
    assert one.read()[0] == met


def test_another_promise_is_another_objective(valkey: Database) -> None:
    clock = Clock()
    kept = attainment(valkey.url, CHECKOUTS, clock=clock)
    kept.add([Start("shop.checkout", 4.0)])
    kept.turn(kept.read()[0])
    assert figures(attainment(valkey.url, replace(CHECKOUTS, within=3), clock=clock)) == [(0, 0, 0)]
    other = attainment(valkey.url, replace(CHECKOUTS, target=0.5), clock=clock)
    assert (figures(other), other.read()[0].since) == ([(1, 1, 0)], None)


def test_two_targets_of_a_rollout_do_not_undo_each_others_breaches(valkey: Database) -> None:
    clock, nothing = Clock(), Snapshot(((),) * 10, (0,) * 10, {})
    sides = [replace(CHECKOUTS, target=target) for target in (0.9, 0.99)]
    kept = [attainment(valkey.url, side, clock=clock) for side in sides]
    kept[0].add([Start("shop.checkout", wait) for wait in [1.0] * 97 + [9.0] * 3])
    guards = [Guard(f"q{n}", [side], each) for n, (side, each) in enumerate(zip(sides, kept, strict=True))]
    turned = [guard.look(nothing, clock.now, acts=True).turned for _ in range(5) for guard in guards]
    assert [each.objective.target for some in turned for each in some] == [0.99]


@pytest.mark.parametrize("hostile", [b"", b"x", b"-1", b"1e400", b"nan nan", b"9 nan", b"\xff\xfe", b"9" * 5000])
def test_hostile_values_count_as_absent(valkey: Database, hostile: bytes) -> None:
    clock = Clock()
    kept = attainment(valkey.url, CHECKOUTS, clock=clock)
    kept.add([Start("shop.checkout", 4.0)])
    kept.tell("orders", {0: 3})
    (slot,) = valkey.client.scan_iter("dynprio:objective:*")
    valkey.client.hset(slot, "started", hostile)
    for field in valkey.client.hkeys("dynprio:objectives"):
        valkey.client.hset("dynprio:objectives", field, hostile)
    assert figures(kept) == [(0, 0, 0)]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_workers_count_what_they_start(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker, pool: str
) -> None:
    project = make_project(valkey.url, BODY)
    worker = start_worker(project, pool=pool)
    module = project.load()
    for _ in range(5):
        module.work.delay()
    module.work.apply_async(countdown=0.2)  # who asks for a time waits for it, not for a worker
    module.other.delay().get(timeout=30)
    kept = RedisAttainment(RedisClient.from_app(make_app(valkey.url)), module.app.conf.dynprio_objectives)
    wait_until(lambda: figures(kept) == [(5, 5, 0), (5, 0, 0)], message=str(figures(kept)))
    worker.kill("SIGTERM")
    assert figures(kept) == [(5, 5, 0), (5, 0, 0)]


def test_a_stopped_worker_sends_what_it_counted(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker
) -> None:
    project = make_project(valkey.url, BODY)
    worker = start_worker(project, pool="prefork")
    module = project.load()
    module.work.delay().get(timeout=30)
    module.work.delay().get(timeout=30)
    worker.kill("SIGTERM")
    kept = RedisAttainment(RedisClient.from_app(make_app(valkey.url)), module.app.conf.dynprio_objectives)
    assert figures(kept) == [(2, 2, 0), (2, 0, 0)]
