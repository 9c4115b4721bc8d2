"""Whatever others do, a leader who asks for what is new knows what is there; nothing is lost or doubled."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from celery_dynprio.brokers.redis import front, news
from celery_dynprio.brokers.redis.backlog import CHECKED, RedisBacklog
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.stubs import MARK
from celery_dynprio.message import HEADER, MOST_BYTES
from celery_dynprio.models import Move, Outcome, PendingTask
from tests.apps import make_app
from tests.contract.world import NOW, QUEUE, WEIGHTS, World, patched
from tests.servers import Database

LEVEL = 3


class Happening(RuleBasedStateMachine):
    def __init__(self, client: RedisClient) -> None:
        super().__init__()
        self.world = World(client, Random(0))

    @initialize(random=st.randoms(use_true_random=False))
    def choose(self, random: Random) -> None:
        self.world.random = random

    @rule(event=st.sampled_from(sorted(WEIGHTS)))
    def happen(self, event: str) -> None:
        getattr(self.world, event)()

    @rule()
    def read(self) -> None:
        self.world.read()

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        self.world.check()


def test_the_leader_knows_the_front_whatever_happens(server: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    patched(monkeypatch.setattr)
    app = make_app(server.url)
    client = RedisClient.from_app(app)
    run_state_machine_as_test(
        lambda: Happening(client),  # type: ignore[arg-type]  # any maker of a machine will do
        settings=settings(
            max_examples=settings().max_examples // 4, stateful_step_count=40, suppress_health_check=list(HealthCheck)
        ),
    )
    client.close()
    app.close()


def test_a_long_life(valkey: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    patched(monkeypatch.setattr)
    app = make_app(valkey.url)
    client = RedisClient.from_app(app)
    world = World(client, Random(15))
    for _ in range(1500):
        world.step()
        world.check()
    client.close()
    app.close()


class Leader:
    """A reprioritizer of a queue with one list, whose ``interrupt`` is called between two commands of it."""

    def __init__(self, database: Database) -> None:
        self.app = make_app(database.url)
        self.client = RedisClient.from_app(self.app)
        self.key = self.client.level_key(QUEUE, LEVEL)
        self.interrupt: Callable[[], object] = lambda: None
        self.backlog = RedisBacklog(self.client, QUEUE, beat=self.beat)

    def beat(self) -> None:
        self.interrupt()

    def publish(self, count: int, **fields: object) -> None:
        self.client.redis.lpush(self.key, *(small(number, **fields) for number in range(count)))

    def read(self) -> list[PendingTask]:
        return list(self.backlog.read(NOW).levels[LEVEL])

    def close(self) -> None:
        self.client.close()
        self.app.close()


def small(number: int, **fields: object) -> bytes:
    headers = {"id": f"{number:04}", "task": "a.task", HEADER: {"at": NOW, **fields}}
    delivery = {"exchange": "", "routing_key": QUEUE}
    properties = {"delivery_info": delivery, "priority": LEVEL, "body_encoding": "base64", "delivery_tag": f"{number}"}
    about = {"content-type": "application/json", "content-encoding": "utf-8"}
    padded = {**properties, "zz": "." * MARK}
    return json.dumps({"body": "W1tdLCB7fSwge31d", **about, "headers": headers, "properties": padded}).encode()


@pytest.fixture
def leader(server: Database) -> Iterator[Leader]:
    made = Leader(server)
    yield made
    made.close()


def test_of_a_front_that_is_too_deep_all_that_is_read_can_be_moved(
    leader: Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front, "REACH", 1000)
    leader.backlog = RedisBacklog(leader.client, QUEUE, window=1000)
    leader.publish(7000)
    tasks = leader.read()
    assert len(tasks) == 1000
    moves = [Move(task, LEVEL, 0, 0.5, "score") for task in (tasks[-1], tasks[500], tasks[0])]
    assert leader.backlog.apply(moves) == [Outcome.MOVED] * 3


@pytest.mark.parametrize("index", range(0, 40, 13))
def test_what_a_stranger_writes_over_is_seen_within_a_round_of_comparisons(
    leader: Leader, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message that he writes is of the same size and end, so that only a comparison in full tells."""
    monkeypatch.delenv(CHECKED)
    leader.backlog = RedisBacklog(leader.client, QUEUE)
    leader.publish(40, w=1)
    leader.read()
    leader.client.redis.lset(leader.key, index, small(39 - index, w=7))
    weights = [[task.weight for task in leader.read()] for _ in range(2 * len(leader.backlog.count()))]
    assert sum(weights[-1]) == 39 + 7


@pytest.mark.parametrize("index", range(0, 40, 13))
def test_a_round_of_comparisons_ends_though_one_call_looks_at_few_messages(
    leader: Leader, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(CHECKED)
    monkeypatch.setattr(news, "MOST_MESSAGES", 9)
    leader.backlog = RedisBacklog(leader.client, QUEUE)
    leader.publish(40, w=1)
    leader.read()
    leader.client.redis.lset(leader.key, index, small(39 - index, w=7))
    weights = [[task.weight for task in leader.read()] for _ in range(40 + 2 * len(leader.backlog.count()))]
    assert sum(weights[-1]) == 39 + 7


def test_what_a_stranger_takes_out_is_seen_within_a_round_even_if_the_newest_message_is_published_again(
    leader: Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list is as long as it was, and begins and ends as it did."""
    monkeypatch.delenv(CHECKED)
    leader.backlog = RedisBacklog(leader.client, QUEUE)
    leader.publish(40)
    leader.read()
    raws = leader.client.redis.lrange(leader.key, 0, -1)
    leader.client.redis.lrem(leader.key, 1, raws[15])
    leader.client.redis.lpush(leader.key, raws[0])
    known = [len(leader.read()) for _ in range(2 * len(leader.backlog.count()))]
    assert known[-1] == 39, "one message has the id of another"


def test_after_a_read_that_broke_off_all_that_is_read_can_be_moved(
    leader: Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news, "MOST_MESSAGES", 20)
    leader.publish(10)
    leader.read()
    other = leader.client.level_key(QUEUE, 0)
    leader.client.redis.lpush(other, *(small(number) for number in range(100, 130)))
    leader.client.redis.lpush(leader.key, *(small(number) for number in range(10, 25)))
    calls = iter([None, ConnectionError("gone")])

    def interrupt() -> None:
        if error := next(calls, None):
            raise error

    leader.interrupt = interrupt
    with pytest.raises(ConnectionError):
        leader.read()
    moves = [Move(task, LEVEL, 4, 0.5, "score") for task in leader.read()]
    assert leader.backlog.apply(moves) == [Outcome.MOVED] * 25


def test_what_others_moved_in_a_level_that_is_not_looked_at_for_now_is_seen_the_next_time(
    leader: Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(CHECKED)
    leader.backlog = RedisBacklog(leader.client, QUEUE)
    clock = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    leader.client.redis.lpush(leader.key, b"x" * (MOST_BYTES + 1))
    leader.publish(300, w=1)
    changed = leader.read()[150]
    rival = RedisBacklog(leader.client, QUEUE)
    rival.find([changed.id], NOW)
    assert rival.apply([Move(changed, LEVEL, LEVEL, 0.5, "operator", {"w": 7})]) == [Outcome.MOVED]
    assert leader.read()[150].weight == 1
    clock[0] += 60
    assert leader.read()[150].weight == 7


def test_pushes_to_a_short_list_do_not_make_it_be_read_again(leader: Leader) -> None:
    leader.publish(3)
    leader.read()
    calls: list[None] = []
    leader.interrupt = lambda: calls.append(None)
    leader.client.redis.lpush(leader.key, *(small(number) for number in range(100, 105)))
    assert len(leader.read()) == 8
    assert len(calls) == 1
