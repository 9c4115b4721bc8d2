"""No task is put, or left, where not all workers of its queue look; on a real Redis, with workers that only answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from celery import Celery
from redis.exceptions import OutOfMemoryError

from celery_dynprio import DynPrio, Weight
from celery_dynprio.assembly import reprioritizers
from celery_dynprio.brokers.redis.broker import RedisBroker
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.lease import RedisLease
from celery_dynprio.brokers.redis.usable import BATCH, RedisUsableLevels
from celery_dynprio.engine.tick import Reprioritizer
from celery_dynprio.errors import LeaseLostError
from celery_dynprio.levels import AddedSteps
from celery_dynprio.operators.fleet import Fleet
from celery_dynprio.operators.operations import Operations
from celery_dynprio.operators.workers import Taker
from tests.apps import make_app
from tests.conftest import StartServer
from tests.integration.test_workers import node
from tests.processes import wait_until
from tests.servers import Database

ALL = tuple(range(10))
PLAIN = (0, 3, 6, 9)
KEY = "dynprio:celery:levels"


def key(level: int) -> str:
    return f"celery\x06\x16{level}" if level else "celery"


class Shop:
    """An app with the add-on, an operator, a leader, and workers that answer with these steps, by their name."""

    def __init__(self, database: Database, **conf: Any) -> None:
        self.redis: Any = database.client
        self.app = Celery("shop", broker=database.url, set_as_current=False)
        self.app.conf.update({"dynprio_policy": 1 * Weight(), "dynprio_hysteresis": 0.25, **conf})
        self.dynprio = DynPrio(self.app)
        self.settings = self.dynprio.settings
        self.client = RedisClient.from_app(self.app)
        self.operations = Operations(self.app, RedisBroker(self.client), self.settings, "ada@ops")
        self.workers: dict[str, tuple[int, ...]] = {}
        self.fleet = Fleet(
            lambda: {name: Taker(frozenset(["celery"]), frozenset(steps)) for name, steps in self.workers.items()}
        )

    def leader(self, owner: str = "host:1:x") -> Reprioritizer:
        return reprioritizers(RedisBroker(self.client), self.settings, owner, workers=self.fleet)[0]

    def publish(self, *weights: float, **options: Any) -> list[str]:
        return [self.app.send_task("work", dynprio={"weight": weight}, **options).id for weight in weights]

    def put(self, level: int, *texts: bytes) -> None:
        """Messages that lie in this level, the first the next to run."""
        self.redis.lpush(key(level), *texts)

    def depths(self) -> dict[int, int]:
        found = {level: self.redis.llen(key(level)) for level in ALL}
        return {level: depth for level, depth in found.items() if depth}

    def close(self) -> None:
        self.client.close()
        self.app.close()


@pytest.fixture
def make_shop() -> Iterator[Callable[..., Shop]]:
    with ExitStack() as closing:

        def make(database: Database, **conf: Any) -> Shop:
            made = Shop(database, **conf)
            closing.callback(made.close)
            return made

        yield make


@pytest.fixture
def shop(valkey: Database, make_shop: Callable[..., Shop]) -> Shop:
    return make_shop(valkey)


class TestTheKey:
    def test_without_it_only_plain_levels_may_be_used(self, shop: Shop) -> None:
        levels = RedisUsableLevels(shop.client, "celery")
        assert levels.now() == PLAIN
        levels.keep(ALL, None)
        assert levels.now() == RedisUsableLevels(shop.client, "celery").now() == ALL
        assert 0 < shop.redis.ttl(KEY) <= 30
        levels.keep(PLAIN, None)
        assert levels.now() == PLAIN
        assert not shop.redis.exists(KEY)

    @pytest.mark.parametrize("value", [b"", b"\xff", b"10,-1,x,", b"[1, 2]"])
    def test_what_is_odd_in_it_counts_as_absent(self, shop: Shop, value: bytes) -> None:
        shop.redis.set(KEY, value)
        assert RedisUsableLevels(shop.client, "celery").now() == PLAIN

    def test_where_the_user_gave_ten_levels_to_all_it_is_not_needed(
        self, valkey: Database, make_shop: Callable[..., Shop]
    ) -> None:
        shop = make_shop(valkey, broker_transport_options={"priority_steps": list(ALL)})
        levels = RedisUsableLevels(shop.client, "celery", shop.fleet)
        shop.put(1, b"a")
        assert levels.now() == ALL
        assert levels.keep(levels.now(), "nobody's") == 0
        assert (shop.depths(), shop.redis.exists(KEY)) == ({1: 1}, 0)


class TestEmptying:
    def test_tasks_go_behind_those_of_the_plain_level_before_in_order(
        self, server: Database, make_shop: Callable[..., Shop]
    ) -> None:
        shop = make_shop(server)
        for level, texts in {3: (b"a", b"b"), 4: (b"c", b"d"), 5: (b"e",), 9: (b"z",)}.items():
            shop.put(level, *texts)
        fence = RedisLease(shop.client, "celery", "me").acquire()
        assert RedisUsableLevels(shop.client, "celery").keep(PLAIN, fence) == 3
        assert shop.redis.lrange(key(3), 0, -1)[::-1] == [b"a", b"b", b"c", b"d", b"e"]
        assert shop.depths() == {3: 5, 9: 1}
        assert shop.redis.get("dynprio:celery:moves") == b"3"

    def test_more_than_one_batch(self, shop: Shop) -> None:
        shop.put(8, *(b"%d" % number for number in range(2 * BATCH + 1)))
        shop.put(1, b"x" * 600_000, b"y" * 600_000)
        assert RedisUsableLevels(shop.client, "celery").keep(PLAIN, None) == 2 * BATCH + 3
        assert shop.depths() == {0: 2, 6: 2 * BATCH + 1}

    def test_a_stale_leader_says_and_moves_nothing(self, shop: Shop) -> None:
        shop.put(1, b"a")
        stale = RedisLease(shop.client, "celery", "me").acquire()
        RedisLease(shop.client, "celery", "drain", "operator").acquire()
        for levels in (ALL, PLAIN):
            with pytest.raises(LeaseLostError):
                RedisUsableLevels(shop.client, "celery").keep(levels, stale)
        assert (shop.depths(), shop.redis.exists(KEY)) == ({1: 1}, 0)

    @pytest.mark.parametrize("levels", [ALL, PLAIN])
    def test_a_server_at_its_maxmemory_is_obeyed_all_the_same(
        self, start_server: StartServer, levels: tuple[int, ...]
    ) -> None:
        broker = start_server("redis")
        with broker.client() as client, make_app(broker.url(), steps=AddedSteps(ALL)) as app:
            client.lpush(key(1), b"a")
            client.config_set("maxmemory", 1)
            with pytest.raises(OutOfMemoryError):
                client.lpush(key(1), b"b")
            reached = RedisClient.from_app(app)
            RedisUsableLevels(reached, "celery").keep(levels, None)
            reached.close()
            assert client.llen(key(0 if levels == PLAIN else 1)) == 1


class TestTheLeader:
    def test_it_uses_all_levels_while_all_workers_take_from_them(self, shop: Shop) -> None:
        leader = shop.leader()
        shop.publish(*range(11))
        leader.tick()
        assert set(shop.depths()) == {*PLAIN}, "no worker has answered yet"
        shop.workers = {"one": ALL, "two": ALL}
        shop.fleet.look()
        leader.tick()
        assert set(shop.depths()) == {*ALL}
        assert shop.redis.get(KEY) == b"0,1,2,3,4,5,6,7,8,9"

    def test_it_empties_the_levels_in_between_when_an_old_worker_appears(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        shop.workers = {"one": ALL}
        shop.fleet.look()
        leader = shop.leader()
        shop.publish(*range(11))
        leader.tick()
        assert set(shop.depths()) == {*ALL}
        shop.workers = {"one": ALL, "old@host": PLAIN}
        shop.fleet.look()
        leader.tick()
        assert set(shop.depths()) == {*PLAIN}
        assert sum(shop.depths().values()) == 11
        assert not shop.redis.exists(KEY)
        assert "levels P1, P2, P4, P5, P7, P8 are not used: old@host" in caplog.text

    def test_a_new_one_goes_on_as_the_last_one_until_workers_answer(self, shop: Shop) -> None:
        shop.workers = {"one": ALL}
        shop.fleet.look()
        shop.publish(*range(11))
        shop.leader().tick()
        shop.fleet = Fleet(dict)
        assert shop.leader().tick().moves == ()
        assert set(shop.depths()) == {*ALL}

    def test_it_keeps_a_pin_for_later(self, shop: Shop) -> None:
        shop.app.send_task("work", priority=5)
        leader = shop.leader()
        leader.tick()
        assert shop.depths() == {3: 1}
        shop.workers = {"one": ALL}
        shop.fleet.look()
        leader.tick()
        assert shop.depths() == {5: 1}
        (raw,) = shop.redis.lrange(key(5), 0, -1)
        assert json.loads(raw)["properties"]["priority"] == 3

    @pytest.mark.parametrize(
        ("workers", "owner", "emptied"),
        [
            ({"one": ALL}, "host:1:x", False),
            ({"one": ALL}, "one:1:x", True),  # its own worker, which ends with it
            ({"one": ALL, "two": ALL}, "one:1:x", False),
            ({}, "host:1:x", True),
        ],
    )
    def test_it_leaves_no_task_where_no_worker_looks(
        self,
        shop: Shop,
        workers: dict[str, tuple[int, ...]],
        owner: str,
        emptied: bool,  # noqa: FBT001
    ) -> None:
        shop.workers = {"one": ALL, **workers}
        shop.fleet.look()
        leader = shop.leader(owner)
        shop.publish(*range(11))
        leader.tick()
        if not workers:
            shop.workers = {"another": PLAIN}  # the one that it knew does not answer any more
            shop.fleet.look()
        leader.close()
        assert (set(shop.depths()) == {*PLAIN}) is emptied
        assert RedisLease(shop.client, "celery", "me").holder() is None

    def test_paused_it_moves_nothing_at_its_end_and_names_what_waits(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        shop.workers = {"one": ALL}
        shop.fleet.look()
        leader = shop.leader()
        shop.publish(*range(11))
        leader.tick()
        before = shop.depths()
        shop.operations.pause()
        shop.workers = {"old": PLAIN}
        shop.fleet.look()
        for _ in range(3):
            leader.tick()
        leader.close()
        assert shop.depths() == before
        (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
        assert f"{before[1]} tasks in {key(1)!r}" in record.getMessage()
        assert "dynprio drain" in record.getMessage()


class TestOperators:
    def test_a_pin_that_cannot_be_used_yet_is_kept_and_said(self, shop: Shop) -> None:
        (task_id,) = shop.publish(1)
        (result,) = shop.operations.reprioritize([task_id], {"level": 5})
        assert result.detail == "waits in P3 until all workers take from P5"
        assert shop.depths() == {3: 1}
        (raw,) = shop.redis.lrange(key(3), 0, -1)
        assert json.loads(raw)["headers"]["dynprio"]["pin"] == 5

    def test_a_pin_that_can_be_used_is(self, shop: Shop) -> None:
        (task_id,) = shop.publish(1)
        RedisUsableLevels(shop.client, "celery").keep(ALL, None)
        (result,) = shop.operations.reprioritize([task_id], {"level": 5})
        assert (result.detail, shop.depths()) == ("", {5: 1})

    def test_what_is_released_goes_to_a_usable_level(self, shop: Shop) -> None:
        held = shop.publish(4.5, 8.5)
        shop.operations.hold(held)
        shop.operations.release(held)
        assert shop.depths() == {0: 1, 3: 1}

    def test_after_drain_nothing_lands_in_between_until_moves_are_resumed(self, shop: Shop) -> None:
        shop.workers = {"one": ALL}
        shop.fleet.look()
        leader = shop.leader()
        first = shop.publish(*range(11))
        leader.tick()
        shop.operations.hold(first[:3])
        (drained,) = shop.operations.drain(0.0, held=True)
        assert (drained.returned, drained.held) == (3, 0)
        leader.tick()
        shop.publish(*range(11))
        shop.operations.reprioritize(first, {"level": 7})
        shop.operations.hold(first)
        shop.operations.release(first)
        assert set(shop.depths()) == {*PLAIN}
        assert not shop.redis.exists(KEY)
        leader.close()
        shop.operations.resume()
        shop.leader().tick()
        assert set(shop.depths()) == {*ALL}


def test_workers_are_asked_where_they_take_tasks_from(shop: Shop) -> None:
    def answers(steps: Any) -> dict[str, Callable[[], object]]:
        options = {"priority_steps": steps} if steps else {}
        return {
            "active_queues": lambda: [{"name": "celery"}],
            "conf": lambda: {"broker_transport_options": options},
        }

    fleet = Fleet.of(shop.app)
    with node(shop.app, "new@host", **answers(list(ALL))):
        fleet.start()
        wait_until(lambda: fleet.steps("celery") == frozenset(ALL))
        with node(shop.app, "old@host", **answers(None)):
            wait_until(lambda: fleet.steps("celery") == frozenset(PLAIN))
            assert fleet.without("celery", frozenset(ALL)) == ["old@host"]
    fleet.stop()
