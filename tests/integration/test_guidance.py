"""What is particular about guidance in Redis: it expires, stays small, and is not trusted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.guidance import RedisGuidance
from celery_dynprio.brokers.redis.usable import RedisUsableLevels
from celery_dynprio.levels import AddedSteps, Bands
from celery_dynprio.ports.guidance import MOST_ENTRIES, Guidance
from celery_dynprio.runtimes import Runtimes, Sums
from tests.apps import make_app
from tests.servers import Database

FIGURES = Guidance(Bands(0.25, 0.75, 10), Runtimes({"mail": 2.0}), {"acme": 3.0})


@pytest.fixture
def client(valkey: Database) -> Iterator[RedisClient]:
    made = RedisClient.from_app(make_app(valkey.url, steps=AddedSteps(range(10))))
    yield made
    made.close()


def test_it_expires_unless_it_is_renewed(valkey: Database, client: RedisClient) -> None:
    RedisGuidance(client, 30.0).publish("celery", FIGURES)
    left = [valkey.client.pttl(key) for key in ("dynprio:guidance", "dynprio:celery:guidance")]
    assert all(20_000 < each <= 30_000 for each in left)


def test_many_queues_write_the_figures_once_a_second(valkey: Database, client: RedisClient) -> None:
    now = 0.0
    store = RedisGuidance(client, clock=lambda: now)
    store.publish("orders", FIGURES)
    store.publish("mails", Guidance(Bands.equal(10)))
    assert store.read(["mails"])["mails"].use == {"acme": 3.0}
    now = 1.0
    store.publish("mails", Guidance(Bands.equal(10)))
    assert store.read(["orders"])["orders"].use == {}
    assert sorted(valkey.client.keys()) == [b"dynprio:guidance", b"dynprio:mails:guidance", b"dynprio:orders:guidance"]


def test_it_stays_small_however_many_keys_and_names_there_are(valkey: Database, client: RedisClient) -> None:
    figures = {f"shop.tasks.number_{number:06}": number / 7 for number in range(20 * MOST_ENTRIES)}
    sums = {name: Sums(value, value, value) for name, value in figures.items()}
    pairs = {(name, f"tenant-{name}"): value for name, value in sums.items()}
    RedisGuidance(client).publish("celery", Guidance(Bands.equal(10), Runtimes(figures, sums, pairs), figures))
    assert valkey.client.strlen("dynprio:guidance") < 300 * MOST_ENTRIES
    assert valkey.client.strlen("dynprio:celery:guidance") < 100


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff\xfe",
        b"[1]",
        b"{",
        b"[" * 100_000,
        json.dumps({"v": 2, "bands": [0.1, 0.9, 10]}),
        json.dumps({"bands": [0.1, 0.9, 10]}),
        *(
            json.dumps({"v": 1, "bands": bands})
            for bands in (
                None, 1, [], [0.1, 0.9], [0.9, 0.1, 10], [0.5, 0.5, 10], [0.1, 0.9, 0], [0.1, 0.9, "10"],
                [-1, 2, 10], [0, float("nan"), 10], [0, 1e400, 10], ["0", "1", 10], [False, True, 10],
            )
        ),
    ],
)  # fmt: skip
def test_bands_that_are_none_are_taken_for_absent(valkey: Database, client: RedisClient, raw: Any) -> None:
    valkey.client.set("dynprio:celery:guidance", raw)
    assert RedisGuidance(client).read(["celery"]) == {}


@pytest.mark.parametrize(
    "figures",
    [
        "{",
        json.dumps({"v": 1, "means": 5, "names": [], "pairs": {}, "use": None}),
        json.dumps({"v": 1, "means": {"a": "x", "b": -1, "c": None, "d": 1e300}, "use": {"x": [], "y": "9"}}),
        json.dumps({"v": 1, "names": {"a": [1, 2], "b": [1, 2, "3"], "c": 7}, "pairs": [1, ["a"], [1, 2, 3, 4, 5]]}),
        json.dumps({"v": 1, "pairs": [["a", "b", 1, 2, -3], ["a", "b", 1, 2, 3, 4], None]}),
    ],
)
def test_figures_that_are_none_are_left_out(valkey: Database, client: RedisClient, figures: str) -> None:
    store = RedisGuidance(client)
    store.publish("celery", FIGURES)
    valkey.client.set("dynprio:guidance", figures)
    found = store.read(["celery"])["celery"]
    assert (found.bands, dict(found.runtimes), found.runtimes.names, found.runtimes.pairs, found.use) == (
        FIGURES.bands, {}, {}, {}, {},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("said", "levels"), [(None, ()), ("1,2", (1, 2)), (b"\xff,7", (7,)), ("99,x,-1", ()), ("", ())]
)
def test_it_tells_which_levels_the_leader_lets_be_used(
    valkey: Database, client: RedisClient, said: str | bytes | None, levels: tuple[int, ...]
) -> None:
    store = RedisGuidance(client)
    store.publish("celery", FIGURES)
    if said is not None:
        valkey.client.set("dynprio:celery:levels", said)
    assert set(store.read(["celery"])["celery"].levels) == {0, 3, 6, 9, *levels}


def test_it_hears_at_once_of_levels_that_are_used_no_more(client: RedisClient) -> None:
    store, usable = RedisGuidance(client), RedisUsableLevels(client, "celery")
    store.publish("celery", FIGURES)
    for levels in (tuple(range(10)), usable.plain):
        usable.keep(levels, None)
        assert store.read(["celery"])["celery"].levels == levels


def test_a_key_of_another_kind_is_reported_by_nobody(valkey: Database, client: RedisClient) -> None:
    valkey.client.lpush("dynprio:guidance", "x")
    store = RedisGuidance(client)
    valkey.client.set("dynprio:celery:guidance", json.dumps({"v": 1, "bands": [0.1, 0.9, 10]}))
    assert store.read(["celery"])["celery"] == Guidance(Bands(0.1, 0.9, 10), levels=client.scale.plain)
