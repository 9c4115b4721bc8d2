"""The lease is renewed while a leader works, whatever a step takes and however long it rests, and not when it hangs."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from celery_dynprio.assembly import connect
from celery_dynprio.brokers.redis.backlog import RedisBacklog
from celery_dynprio.brokers.redis.broker import ERRORS
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.lease import RedisLease
from celery_dynprio.engine.keeper import PATIENCE, Keeper
from celery_dynprio.engine.loop import serve
from celery_dynprio.engine.planner import Planner
from celery_dynprio.engine.tick import Reprioritizer
from celery_dynprio.models import Context, PendingTask, Report, Role
from celery_dynprio.policies import Weight, factor
from celery_dynprio.settings import Settings
from celery_dynprio.stores.memory import MemoryUsage
from celery_dynprio.testing import MemoryLease
from celery_dynprio.worker.candidate import LOOK_TIMEOUT, Child, Watch
from tests.apps import make_app
from tests.processes import wait_until
from tests.servers import Database

LEASE = "dynprio:celery:lease"

#: Seconds: a lease that is renewed has more than half of it left.
TTL = 600.0


@pytest.fixture
def client(valkey: Database) -> Iterator[RedisClient]:
    app = make_app(valkey.url)
    client = RedisClient.from_app(app)
    for n in range(3):
        app.send_task("a.task", headers={"dynprio": {"at": 1.0 + n, "w": n}}, priority=5)
    yield client
    client.close()
    app.close()


def reprioritizer(client: RedisClient, policy: Any = 1 * Weight(), **backlog: Any) -> Reprioritizer:  # noqa: B008 - a constant
    keeper = Keeper(0.03)  # renews every 10 ms
    return Reprioritizer(
        backlog=RedisBacklog(client, "celery", beat=keeper.beat, **backlog),
        lease=RedisLease(client, "celery", "one", ttl=TTL),
        planner=Planner(10, 100, 0.25),
        policy=policy,
        usage=MemoryUsage(),
        paused=lambda: False,
        keeper=keeper,
    )


def renewed(valkey: Database) -> None:
    """Shorten the lease, and wait until it is long again."""
    valkey.client.pexpire(LEASE, 100_000)
    wait_until(lambda: valkey.client.pttl(LEASE) > 1000 * TTL / 2, message="the lease is renewed")


def test_a_slow_policy_keeps_the_lease(valkey: Database, client: RedisClient) -> None:
    @factor
    def slow(task: PendingTask, context: Context) -> float:
        renewed(valkey)
        return task.weight / 10

    report = reprioritizer(client, 1 * slow).tick()
    assert report.role is Role.LEADER
    assert report.outcomes


def test_a_slow_move_keeps_the_lease(valkey: Database, client: RedisClient) -> None:
    def clock() -> float:  # each move asks when it is made
        renewed(valkey)
        return 5.0

    assert reprioritizer(client, clock=clock).tick().outcomes


def test_the_lease_is_kept_between_two_ticks_however_far_apart(valkey: Database, client: RedisClient) -> None:
    stop, first = threading.Event(), threading.Event()

    def observe(_: Report) -> None:
        first.set()

    with ExitStack() as ends:
        thread = threading.Thread(
            target=serve, args=([reprioritizer(client)], 3600.0, stop, observe), kwargs={"errors": ERRORS}
        )
        ends.callback(thread.join)
        ends.callback(stop.set)
        thread.start()
        assert first.wait(30)
        renewed(valkey)
        renewed(valkey)
    assert not valkey.client.exists(LEASE)


def test_between_ticks_that_nobody_serves_nothing_is_renewed(valkey: Database, client: RedisClient) -> None:
    one = reprioritizer(client)
    one.tick()
    wait_until(lambda: not [each for each in threading.enumerate() if each.name == "dynprio lease"])
    assert valkey.client.exists(LEASE)


class Counting(MemoryLease):
    renewals = 0

    def renew(self) -> None:
        self.renewals += 1


def test_who_shows_no_sign_of_life_is_renewed_no_more() -> None:
    now, looks = 0.0, 0

    def clock() -> float:
        nonlocal looks
        looks += 1
        return now

    def some_looks() -> None:
        before = looks
        wait_until(lambda: looks > before + 10)

    lease, keeper = Counting(), Keeper(0.03, clock)
    keeper.hold(lease)
    with keeper.working():
        wait_until(lambda: lease.renewals > 2)
        now = 2 * PATIENCE * 0.03
        some_looks()
        hung = lease.renewals
        some_looks()
        assert lease.renewals == hung
        keeper.beat()
        wait_until(lambda: lease.renewals > hung + 2)
        keeper.drop(lease)
        some_looks()
        dropped = lease.renewals
        some_looks()
        assert lease.renewals == dropped


def test_a_lease_of_another_is_not_renewed(valkey: Database, client: RedisClient) -> None:
    mine = RedisLease(client, "celery", "one", "embedded", ttl=TTL)
    mine.acquire()
    RedisLease(client, "celery", "two", "dedicated", ttl=TTL).acquire()
    valkey.client.pexpire(LEASE, 100_000)
    mine.renew()
    assert valkey.client.pttl(LEASE) <= 100_000


@pytest.mark.parametrize(("others", "forgotten"), [(0, False), (1, True)])
def test_what_was_read_counts_on_unless_others_led_meanwhile(
    valkey: Database,
    client: RedisClient,
    monkeypatch: pytest.MonkeyPatch,
    others: int,
    forgotten: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    one = reprioritizer(client)
    one.tick()
    closed: list[bool] = []
    monkeypatch.setattr(one.backlog, "close", lambda: closed.append(True))
    valkey.client.delete(LEASE)  # it ran out
    for n in range(others):
        other = RedisLease(client, "celery", f"other {n}", ttl=TTL)
        other.acquire()
        other.release()
    assert one.tick().role is Role.LEADER
    assert bool(closed) is forgotten


def test_a_lease_that_others_had_during_a_tick_moves_nothing(valkey: Database, client: RedisClient) -> None:
    @factor
    def slow(task: PendingTask, context: Context) -> float:
        valkey.client.delete(LEASE)  # the process was stopped, and another one led
        other = RedisLease(client, "celery", "other", ttl=TTL)
        other.acquire()
        other.release()
        return task.weight / 10

    one = reprioritizer(client, 1 * slow)
    assert one.tick().role is Role.STANDBY
    assert valkey.client.llen("celery\x06\x165") == 3


def test_a_worker_keeps_the_lease_for_a_child_that_takes_long_to_start(valkey: Database) -> None:
    now = 0.0
    app = make_app(valkey.url)
    child = Child([sys.executable, "-c", "import time; time.sleep(600)"], clock=lambda: now)
    watch = Watch(lambda: connect(app, LOOK_TIMEOUT), Settings(lease_ttl=TTL), "one", child)
    try:
        watch.look()
        assert child.alive()
        valkey.client.pexpire(LEASE, 100_000)
        watch.look()
        assert valkey.client.pttl(LEASE) > 1000 * TTL / 2
        now = 3600.0
        valkey.client.pexpire(LEASE, 100_000)
        watch.look()
        assert valkey.client.pttl(LEASE) <= 100_000, "by now the child renews it itself"
    finally:
        child.stop()
        watch.close()
        app.close()
