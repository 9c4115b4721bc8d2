"""Brokers for the contract suites: each test of a port runs on the memory broker and on each server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest

from celery_dynprio.brokers.memory import MemoryBroker
from celery_dynprio.brokers.redis.backlog import CHECKED
from celery_dynprio.brokers.redis.broker import RedisBroker
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.ports.broker import Broker
from tests.apps import make_app

#: Connects one process to the broker of the test: what one writes, the next reads.
Connect: TypeAlias = Callable[[], Broker]


@pytest.fixture(autouse=True)
def checked_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each read of a front is compared with all that is there."""
    monkeypatch.setenv(CHECKED, "1")


@pytest.fixture(params=["memory", "valkey", "redis", "redis62", "valkey with a key prefix"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    if request.param == "memory":
        memory = MemoryBroker()
        yield lambda: memory
        return
    kind, _, prefix = request.param.partition(" ")
    url = request.getfixturevalue("open_database")(kind).url
    opened: list[RedisBroker] = []

    def open_one() -> RedisBroker:
        app = make_app(url, prefix="shop:" if prefix else "")
        opened.append(RedisBroker(RedisClient.from_app(app)))
        return opened[-1]

    yield open_one
    for broker in opened:
        broker.close()
