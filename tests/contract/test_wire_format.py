"""What this version writes to Redis is what earlier ones wrote, key by key: an app on either shares the broker.

``wire_format.json`` is what the release before the ports wrote for the operations below. What differs from run to run
(times of Celery's own, trace ids, delivery tags) has a placeholder.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import redis
from celery import Celery

from celery_dynprio import DynPrio, dynprio_task
from celery_dynprio.brokers.redis.backlog import RedisBacklog
from celery_dynprio.brokers.redis.broker import RedisBroker
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.models import CANCELLED, HELD, OVERFLOW, Move, Moved, Outcome, Place, Run, Start
from celery_dynprio.objectives import Objective
from celery_dynprio.policies import Age, Deadline, FairShare, Weight
from celery_dynprio.tracing.records import SpanRecord
from tests.servers import Database

GOLDEN: Final = Path(__file__).with_name("wire_format.json")

NOW: Final = 1_700_000_000.0

AUDIT: Final = json.dumps({"op": "hold", "by": "ada@pc", "why": "too many"})

FAILED: Final = SpanRecord(
    "a" * 32,
    "c" * 16,
    "task-2",
    "shop.render",
    "FAILURE",
    span_id="c" * 16,
    parent_span_id="b" * 16,
    parent_task_id="task-1",
    queue="celery",
    host="w@h",
    attempt=2,
    published=NOW,
    started=NOW + 1.5,
    level_at_publish=0,
    level=3,
    wait=0.5,
    ran=0.25,
    error="ValueError: no",
    moves=(Moved(NOW, 3, 0, 0.75, "score"),),
)

#: What differs from run to run, and its placeholder.
VARIABLE: Final = (
    (re.compile(r"1(?!70000000[01]\.)[6-9]\d{8}\.\d+"), "0.0"),
    (re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01"), "TRACEPARENT"),
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "UUID"),
    (re.compile(r"gen\d+@[^\"\\]+"), "ORIGIN"),
    (re.compile(r"20\d\d-\d\d-\d\dT[^\"\\]*"), "DATE"),
)


#: Keys that no release has written yet, and that older versions do not look at.
NEW: Final = {"dynprio:spreads", "dynprio:usage_changes"}


def test_what_is_written_is_what_the_last_release_wrote(valkey: Database) -> None:
    app = Celery("wire", broker=valkey.url, set_as_current=False)
    app.conf.broker_transport_options = {"priority_steps": list(range(10))}
    # The default policy of then, so that tasks go to the levels of then.
    app.conf.dynprio_policy = 4 * Deadline(horizon=60) + 2 * Weight() + 3 * FairShare() + 1 * Age(saturation=300)
    DynPrio(app)
    publish(app)
    broker = RedisBroker(RedisClient.from_app(app))
    move(broker)
    remember(broker)
    written = json.loads(without_variables(json.dumps(dump(valkey.client))))
    expected = json.loads(without_variables(GOLDEN.read_text()))
    assert written.keys() == expected.keys() | NEW
    for key, value in expected.items():
        assert shape(written[key]) == shape(value), key
    broker.close()


def publish(app: Celery) -> None:
    """Publish as users do."""

    @dynprio_task(app=app, name="shop.render", weight=5, deadline=30, key="customer")
    def render(customer: int) -> None: ...

    @app.task(name="shop.plain")
    def plain(x: int) -> None: ...

    for number in range(1, 8):
        render.apply_async((number,), task_id=f"task-{number}")
    plain.apply_async((1,), task_id="plain-1")
    plain.apply_async((1,), task_id="pinned", priority=6)
    render.apply_async((1,), task_id="options", dynprio={"weight": 9, "key": "vip"})
    render.apply_async((1,), task_id="late", countdown=60)


def move(broker: RedisBroker) -> None:
    """Move, hold, release, cancel, change, park and bump, as leader and operators do."""
    backlog = RedisBacklog(broker.client, "celery", clock=lambda: NOW)
    fence = broker.lease("celery", "host:1:abc", "dedicated", 600).acquire()
    found = {task.id: (task, level) for level, tasks in enumerate(backlog.read(NOW).levels) for task in tasks}

    def one(task_id: str, target: Place, reason: str, audit: str = "", **options: Any) -> None:
        task, level = found[task_id]
        found[task_id] = task, target
        moves = [Move(task, level, target, 0.5, reason, **options)]
        assert backlog.apply(moves, fence, audit) == [Outcome.MOVED]

    one("task-1", 0, "score")
    one("task-2", HELD, "hold", AUDIT)
    one("task-3", HELD, "hold", AUDIT)
    one("task-3", 3, "release", AUDIT)
    one("task-4", CANCELLED, "cancel", AUDIT)
    one("task-5", found["task-5"][1], "reprioritize", changes={"w": 9.0, "key": None})
    one("task-6", OVERFLOW, "overflow")
    one("plain-1", 0, "bump", first=True)
    assert backlog.spill(1, NOW, fence) == 1


def remember(broker: RedisBroker) -> None:
    """Write to each store."""
    stores = broker.stores
    stores.switch().pause()
    stores.audit().add(op="pause", by="ada@pc", why="deploy")
    stores.usage(600.0).add([Run("shop.render", "7", 2.0), Run("shop.render", "", 4.0)])
    stores.histograms().add([Run("shop.render", "7", 2.0, 3, 0.5, in_time=True), Run("shop.plain", "", 700.0)])
    attainment = stores.attainment([Objective("soon", "shop.*", within=5, window=100)], lambda: NOW)
    attainment.add([Start("shop.render", 4.0), Start("shop.render", 6.0)])
    attainment.tell("celery", {0: 3})
    (standing,) = attainment.read()
    assert attainment.turn(standing)
    stores.spans().add([SpanRecord("a" * 32, "b" * 16, "task-1", "shop.render", "PENDING"), FAILED])


def dump(client: redis.Redis) -> dict[str, Any]:
    """All keys but kombu's own bindings, with type, time to live (to ten seconds) and value."""
    raw: Any = client
    found = {}
    for key in sorted(raw.keys("[^_]*")):
        kind = raw.type(key).decode()
        values: dict[str, Any] = {
            "string": lambda key=key: raw.get(key).decode(),
            "list": lambda key=key: [each.decode() for each in raw.lrange(key, 0, -1)],
            "set": lambda key=key: sorted(each.decode() for each in raw.smembers(key)),
            "zset": lambda key=key: [each.decode() for each in raw.zrange(key, 0, -1)],
            "hash": lambda key=key: {field.decode(): value.decode() for field, value in raw.hgetall(key).items()},
            "stream": lambda key=key: [
                {field.decode(): value.decode() for field, value in fields.items()} for _, fields in raw.xrange(key)
            ],
        }
        found[key.decode()] = {"type": kind, "ttl": round(raw.ttl(key), -1), "value": values[kind]()}
    return found


def without_variables(text: str) -> str:
    for pattern, placeholder in VARIABLE:
        text = pattern.sub(placeholder, text)
    return text


def shape(value: Any) -> Any:
    """The same with each JSON text in it decoded; Celery's own headers, which vary by its version, are left out."""
    if isinstance(value, dict):
        ours = {"dynprio", "traceparent", "id", "task"}
        if "root_id" in value:
            return {name: value[name] for name in value if name in ours}
        return {name: shape(each) for name, each in value.items() if name != "body"}
    if isinstance(value, list):
        return [shape(each) for each in value]
    if isinstance(value, str) and value[:1] in {"{", "["}:
        return shape(json.loads(value))
    return value
