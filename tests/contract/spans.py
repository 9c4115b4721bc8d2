"""The trace stores that the contract suites of traces and of lone runs go through."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.spans import RedisSpans
from celery_dynprio.ports.spans import Spans
from celery_dynprio.stores.memory import MemorySpans
from tests.apps import make_app
from tests.servers import Database


@pytest.fixture(name="store", params=["memory", "valkey", "redis", "redis62"])
def every_store(request: pytest.FixtureRequest) -> Iterator[Spans]:
    if request.param == "memory":
        yield MemorySpans()
        return
    database: Database = request.getfixturevalue("open_database")(request.param)
    spans = redis_spans(database.url)
    yield spans
    spans.close()


def redis_spans(url: str, prefix: str = "", **bounds: Any) -> RedisSpans:
    return RedisSpans(RedisClient.from_app(make_app(url, prefix=prefix)), **bounds)
