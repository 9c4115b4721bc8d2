"""Counts of dropped spans in a real Redis."""

from __future__ import annotations

import pytest
import redis

from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.spans import RedisSpans
from tests.apps import make_app
from tests.servers import Database


def dropped(url: str, prefix: str = "") -> RedisSpans:
    return RedisSpans(RedisClient.from_app(make_app(url, prefix=prefix)))


def test_what_processes_drop_is_summed_up(server: Database) -> None:
    one, other = dropped(server.url), dropped(server.url)
    assert one.dropped_counts() == {"no_room": 0, "not_sent": 0}
    one.add_dropped({"no_room": 3, "not_sent": 0})
    one.add_dropped({"no_room": 3, "not_sent": 2})
    other.add_dropped({"no_room": 4, "not_sent": 0})
    assert other.dropped_counts() == {"no_room": 7, "not_sent": 2}


def test_what_could_not_be_told_is_told_later(valkey: Database) -> None:
    kept = dropped(valkey.url)
    valkey.client.set("dynprio:spans_dropped", "not a hash")
    with pytest.raises(redis.ResponseError):
        kept.add_dropped({"no_room": 3})
    valkey.client.delete("dynprio:spans_dropped")
    kept.add_dropped({"no_room": 3})
    assert kept.dropped_counts()["no_room"] == 3


def test_what_one_cause_has_in_the_way_is_not_told_of_the_other_again(valkey: Database) -> None:
    kept = dropped(valkey.url)
    valkey.client.hset("dynprio:spans_dropped", "no_room", "many")
    for _ in range(3):
        with pytest.raises(redis.ResponseError):
            kept.add_dropped({"no_room": 1, "not_sent": 2})
    assert kept.dropped_counts() == {"no_room": 0, "not_sent": 2}
    valkey.client.hdel("dynprio:spans_dropped", "no_room")
    kept.add_dropped({"no_room": 1, "not_sent": 2})
    assert kept.dropped_counts() == {"no_room": 1, "not_sent": 2}


def test_nothing_is_written_before_something_is_dropped_and_nothing_stays(valkey: Database) -> None:
    kept = dropped(valkey.url, prefix="shop:")
    kept.add_dropped({"no_room": 0, "not_sent": 0})
    assert valkey.client.dbsize() == 0
    kept.add_dropped({"no_room": 1})
    assert valkey.client.keys() == [b"shop:dynprio:spans_dropped"]
    assert valkey.client.ttl("shop:dynprio:spans_dropped") > 0


@pytest.mark.parametrize("value", [b"", b"many", b"-5", b"1.5", b"9" * 30, b"\xff"])
def test_what_somebody_else_wrote_counts_as_nothing(server: Database, value: bytes) -> None:
    server.client.hset("dynprio:spans_dropped", mapping={b"no_room": value, b"other": b"7"})
    assert dropped(server.url).dropped_counts() == {"no_room": 0, "not_sent": 0}
