"""What is particular about running tasks and shares in Redis: they stay bounded, end, and are not trusted."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from celery_dynprio.brokers.redis import running
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.running import RedisRunning
from celery_dynprio.brokers.redis.shares import RedisShares
from celery_dynprio.models import RunningTask
from celery_dynprio.ports.stores import SetShare
from tests.apps import make_app
from tests.processes import wait_until
from tests.servers import Database


@pytest.fixture
def client(valkey: Database) -> Iterator[RedisClient]:
    made = RedisClient.from_app(make_app(valkey.url))
    yield made
    made.close()


def runs(*ids: str) -> list[RunningTask]:
    return [RunningTask(each, "work", "acme", 0.0) for each in ids]


def test_runs_stay_bounded_and_those_that_ended_make_room(
    valkey: Database, client: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "MAX_RUNNING", 3)
    dead, store = RedisRunning(client, ttl=1.0), RedisRunning(client)
    dead.start(runs("1", "2"), 1.0)
    store.start(runs("3", "4", "5"), 1.0)
    assert valkey.client.hlen("dynprio:running") == 3
    store.start(runs("3"), 1.0)  # known already

    def has_room() -> bool:
        store.start(runs("4", "5"), 1.0)
        return {each.id for each in RedisRunning(client).read(time.time())} == {"3", "4", "5"}

    wait_until(has_room)
    assert valkey.client.hlen("dynprio:running") == 3


def test_all_of_it_expires_with_the_last_worker(valkey: Database, client: RedisClient) -> None:
    RedisRunning(client).start(runs("1"), 1.0)
    assert 0 < valkey.client.ttl("dynprio:running") <= 60


HOSTILE = [
    b"", b"x", b"1 2", b'nan 9e99 ["a", "b"]', b'1 nan ["a", "b"]', b"1 9e99 {}", b"1 9e99 [1, 2]", b'1 9e99 ["a"]',
    b"1 9e99 " + b"[" * 100_000, b"\xff \xff \xff",
]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_runs_are_passed_over_and_dropped(valkey: Database, client: RedisClient, value: bytes) -> None:
    valkey.client.hset("dynprio:running", "hostile", value)
    RedisRunning(client).start(runs("1"), 1.0)
    assert [each.id for each in RedisRunning(client).read(time.time())] == ["1"]


@pytest.mark.parametrize(
    "value", [b"", b"x", b"4", b"0 inf", b"-1 inf", b"nan inf", b"inf inf", b"4 nan", b"\xff \xff"]
)
def test_hostile_shares_are_passed_over_and_dropped(valkey: Database, client: RedisClient, value: bytes) -> None:
    valkey.client.hset("dynprio:shares", "hostile", value)
    store = RedisShares(client)
    assert store.read(time.time()) == []
    store.set(SetShare("acme", 4.0), time.time())
    assert store.read(time.time()) == [SetShare("acme", 4.0)]
    assert valkey.client.hkeys("dynprio:shares") == [b"acme"]
