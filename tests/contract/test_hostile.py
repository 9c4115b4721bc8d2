"""Nothing in a message can crash, block or mislead the reprioritizer."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celery_dynprio import message
from celery_dynprio.brokers.redis.backlog import RedisBacklog
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.lease import RedisLease
from celery_dynprio.engine.planner import Planner
from celery_dynprio.engine.tick import Reprioritizer
from celery_dynprio.levels import Scale
from celery_dynprio.message import HEADER
from celery_dynprio.models import Moved, PendingTask, Role
from celery_dynprio.policies import default_policy
from celery_dynprio.stores.memory import MemoryUsage
from tests.apps import make_app
from tests.servers import Database

NOW = 1_700_000_000.0
PICKLED = {"content-type": "application/x-python-serialize"}
SCALE = Scale.of(range(10))


def envelope(headers: Any, *, body: str = "W1tdLCB7fSwge31d", **properties: Any) -> bytes:
    properties = {"priority": 5, "delivery_tag": str(uuid4()), "body_encoding": "base64"} | properties
    return json.dumps({"body": body, "headers": headers, "properties": properties}).encode()


def foreign_envelope(said: Any, **changes: Any) -> bytes:
    """Task protocol 1, as gocelery writes it: its correlation id is not the task's."""
    properties = {"priority": 5, "delivery_tag": str(uuid4()), "body_encoding": "base64", "correlation_id": "other"}
    encoded = base64.b64encode(json.dumps(said).encode()).decode()
    message = {"body": encoded, "headers": {}, "content-type": "application/json", "content-encoding": "utf-8"}
    return json.dumps({**message, "properties": properties, **changes}).encode()


def task_headers(**fields: Any) -> dict[str, Any]:
    return {"id": str(uuid4()), "task": "shop.checkout", "lang": "py"} | fields


def hostile_fields() -> Iterator[Any]:
    """Values that no field of the ``dynprio`` header should have."""
    yield from (None, True, "9", [], {}, -1, -1e308, 1e308, float("nan"), float("inf"), 10**400, "\ud800", "x" * 10**5)


def immovable() -> list[bytes]:
    """What must stay where it is, byte for byte."""
    random.seed(5)
    protocol_1 = {"task": "shop.checkout", "id": str(uuid4()), "args": [], "kwargs": {}}
    entries = [
        b"",
        b"\x00",
        b"null",
        b"[]",
        b"{}",
        b'"text"',
        b"NaN",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"1" * 5000,
        '{"headers": "ä"}'.encode("latin-1"),
        *(random.randbytes(n) for n in (1, 10, 1000)),
        envelope(None),
        envelope([]),
        envelope({}),
        envelope({"id": None, "task": "shop.checkout"}),
        envelope({"id": 7, "task": "shop.checkout"}),
        envelope({"id": "", "task": "shop.checkout"}),
        envelope({"id": "\ud800", "task": "shop.checkout"}),
        envelope({"id": "x" * 1000, "task": "shop.checkout"}),
        envelope({"id": str(uuid4())}),
        envelope({"id": str(uuid4()), "task": ["shop.checkout"]}),
        envelope({}, body=json.dumps(protocol_1)),
        envelope(task_headers(), body="x" * 10_000_000),
        json.dumps({"headers": task_headers(), "properties": "priority"}).encode(),
    ]
    twin = task_headers()
    return [*entries, envelope(twin, priority=1), envelope(twin, priority=1)]


def movable() -> list[bytes]:
    """Real tasks in unusual clothes: they may be moved, and must not change but for their priority."""
    fields = [dict.fromkeys(("at", "w", "due", "key", "n", "pin", "mv"), value) for value in hostile_fields()]
    return [
        envelope(task_headers(), body="gASVCgAAAAAAAABdlH2UfZSHlC4=", **{"content-type": "application/x-pickle"}),
        envelope(task_headers(compression="application/x-gzip"), body="H4sIAAAAAAAC/wMAAAAAAAAAAAA="),
        envelope(task_headers(), body="k5CAgA==", **{"content-type": "application/x-msgpack"}),
        envelope(task_headers(), body='{"priority": 5}', note='"priority": 5'),
        foreign_envelope({"task": "shop.checkout", "id": str(uuid4()), "args": [], "kwargs": {}}),
        *(envelope(task_headers(**{HEADER: value})) for value in hostile_fields()),
        *(envelope(task_headers(**{HEADER: value})) for value in fields),
    ]


def without_what_a_move_may_change(raw: bytes | str) -> str:
    """The message but for its priority and what a move adds: itself, and to no header the time, pin and names."""
    decoded = json.loads(raw)
    del decoded["properties"]["priority"]
    fields = decoded["headers"].pop(HEADER, None)
    if isinstance(fields, dict):
        fields.pop("at", None)
        fields.pop("mv", None)
        added = {"pin"} if "task" in decoded["headers"] else {"pin", "id", "task"}  # protocol 1 has them in its body
        fields = {} if added.issuperset(fields) else fields
    return json.dumps([decoded, fields or None])


@pytest.fixture
def client(server: Database) -> Iterator[RedisClient]:
    app = make_app(server.url)
    client = RedisClient.from_app(app)
    yield client
    client.close()
    app.close()


def reprioritizer(client: RedisClient, window: int) -> Reprioritizer:
    clock = iter(NOW + tick for tick in range(10_000))
    return Reprioritizer(
        backlog=RedisBacklog(client, "celery", window),
        lease=RedisLease(client, "celery", "one", ttl=600),
        planner=Planner(len(SCALE.levels), window, 0.25),
        policy=default_policy(),
        usage=MemoryUsage(),
        paused=lambda: False,
        window=window,
        clock=lambda: next(clock),
    )


@pytest.mark.parametrize("window", [10_000, 20])
def test_hostile_messages_are_left_where_they_are(client: RedisClient, window: int) -> None:
    key, stay, go = client.level_key("celery", 1), immovable(), movable()
    for raw in [*stay[::2], *go, *stay[1::2]]:
        client.redis.lpush(key, raw)
    ticking = reprioritizer(client, window)
    reports = [ticking.tick() for _ in range(100)]
    assert {report.role for report in reports} == {Role.LEADER}
    lists = [client.redis.lrange(client.level_key("celery", level), 0, -1) for level in range(10)]
    everywhere = [raw for messages in lists for raw in messages]
    everywhere += client.redis.hvals(client.queue_key("celery", "overflow"))
    everywhere += client.redis.hvals(client.queue_key("celery", "held"))
    left = client.redis.lrange(key, 0, -1)
    twins = [raw for raw in stay if isinstance(message.parse(raw, NOW, SCALE), PendingTask)]
    assert len(twins) == 2
    assert sum(raw in left for raw in twins) >= 1  # one of two with the same id may move
    for raw in set(stay) - set(twins):
        assert left.count(raw) == stay.count(raw)
        everywhere.remove(raw)
    moved = map(without_what_a_move_may_change, everywhere)
    assert sorted(moved) == sorted(map(without_what_a_move_may_change, [*twins, *go]))


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (
            foreign_envelope({"id": "a", "task": "t"}, **{"content-type": "application/x-python-serialize"}),
            "body not JSON",
        ),
        (foreign_envelope({"id": "a", "task": "t"}, headers={"compression": "application/x-gzip"}), "body not JSON"),
        (foreign_envelope({}, body="\xff"), "body not JSON"),
        (foreign_envelope({}, body="W1tdLCB7fSwge31"), "body not JSON"),
        (foreign_envelope({"id": "a", "task": "t", "args": ["x" * 10**5]}), "body too large"),
    ],
)
def test_protocol_1_that_cannot_be_read_is_said(raw: bytes, reason: str) -> None:
    assert message.parse(raw, NOW, SCALE) == f"protocol 1, {reason}"


def test_protocol_1_is_read_from_its_body_or_from_our_header() -> None:
    body = {"id": "a", "task": "shop.checkout", "eta": "2030-01-01T00:00:00"}
    expected = PendingTask("a", "shop.checkout", NOW, pinned=5, scheduled=True)
    assert message.parse(foreign_envelope(body), NOW, SCALE) == expected
    moved = message.rewrite(foreign_envelope(body), 3, expected)
    assert json.loads(moved)["headers"] == {
        HEADER: {"at": NOW, "pin": 5, "id": "a", "task": "shop.checkout", "eta": True}
    }, "a task among the headers would make it protocol 2"
    unreadable = json.dumps({**json.loads(moved), **PICKLED}).encode()
    assert message.parse(unreadable, NOW + 9, SCALE) == expected
    assert message.headers_of(unreadable)["id"] == "a"


def test_a_header_with_the_names_of_options_is_read_and_written_out() -> None:
    raw = envelope(task_headers(id="a", **{HEADER: {"weight": 9, "deadline": "30s", "key": "beat"}}))
    expected = PendingTask("a", "shop.checkout", NOW, 9.0, NOW + 30, "beat")
    task = message.parse(raw, NOW, SCALE)
    assert task == expected
    assert message.parse(message.rewrite(raw, 3, expected, changes={"w": 2}), NOW + 99, SCALE) == replace(
        expected, weight=2.0
    )


@pytest.mark.parametrize("value", [None, True, "x", [], {}, -1, 10**400])
def test_nonsense_under_the_names_of_options_counts_as_absent(value: Any) -> None:
    raw = envelope(task_headers(id="a", **{HEADER: dict.fromkeys(("weight", "deadline", "key"), value)}))
    task = message.parse(raw, NOW, SCALE)
    assert isinstance(task, PendingTask)
    assert (task.weight, task.key) == (1.0, "x" if value == "x" else None)


def test_names_and_keys_are_shared_between_tasks_and_not_for_ever() -> None:
    def read(number: int) -> PendingTask:
        headers = task_headers(task=f"name {number}", **{HEADER: {"key": f"key {number}"}})
        task = message.parse(envelope(headers), NOW, SCALE)
        assert isinstance(task, PendingTask)
        return task

    first, again = read(0), read(0)
    assert first.name is again.name
    assert first.key is again.key
    for number in range(1, message._shared.cache_info().maxsize or 0):
        read(number)
    assert read(0).key is not first.key, "what has not been seen for long is forgotten"


def test_what_is_left_alone_is_counted(client: RedisClient) -> None:
    large = envelope({"id": "a", "task": "t"}, body="x" * 10**6)
    for raw in (b"\xff", b"[]", envelope({}), envelope({"id": "a"}), large):
        client.redis.lpush(client.level_key("celery", 1), raw)
    foreign = RedisBacklog(client, "celery").read(NOW).foreign
    assert foreign == {"not JSON": 1, "not a message": 1, "no id": 1, "no task name": 1, "too large": 1}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.dictionaries(st.sampled_from(["at", "w", "due", "key", "n", "pin", "mv", "?"]), JSON)


@given(raw=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_parsing_never_raises(raw: bytes) -> None:
    assert isinstance(message.parse(raw, NOW, SCALE), str)


@given(fields=JSON | FIELDS, priority=JSON)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_a_hostile_header_gives_a_sane_task(fields: Any, priority: Any) -> None:
    raw = envelope(task_headers(**{HEADER: fields}), priority=priority)
    task = message.parse(raw, NOW, SCALE)
    assert isinstance(task, PendingTask)
    assert 0 <= task.published < float("inf")
    assert 0 <= task.weight <= message.MAX_WEIGHT
    assert task.deadline is None or 0 <= task.deadline < float("inf")
    assert task.key is None or len(task.key.encode()) <= 4 * message.MAX_KEY
    assert 0 <= task.dependents <= message.MAX_DEPENDENTS
    assert task.pinned is None or task.pinned in range(10)
    again = message.parse(message.rewrite(raw, 3, task, Moved(NOW, 5, 3, 0.5, "score")), NOW + 9, SCALE)
    assert isinstance(again, PendingTask)
    kept_its_age = fields is None or isinstance(fields, dict)
    assert again == (task if kept_its_age else replace(task, published=NOW + 9))
