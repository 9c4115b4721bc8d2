"""A broker that refuses something: out of memory, a replica, a user without the right, another clock."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, cast

import pytest
import redis
from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import BusyLoadingError, NoPermissionError, OutOfMemoryError, ReadOnlyError

from celery_dynprio import DynPrio
from celery_dynprio.assembly import reprioritizers
from celery_dynprio.brokers.redis import client as redis_client
from celery_dynprio.brokers.redis.backlog import RedisBacklog
from celery_dynprio.brokers.redis.broker import ERRORS, RedisBroker
from celery_dynprio.brokers.redis.client import BrokerClock, RedisClient
from celery_dynprio.brokers.redis.trouble import explained
from celery_dynprio.engine.ticklog import TickLog
from celery_dynprio.errors import BrokerRefusedError, BrokerUnavailableError
from celery_dynprio.message import HEADER, MAX_BYTES, moves_of
from celery_dynprio.models import HELD, OVERFLOW, Move, Role
from celery_dynprio.objectives import Objective
from celery_dynprio.operators.fates import Answer
from celery_dynprio.operators.operations import Operations
from celery_dynprio.operators.workers import Workers
from tests.conftest import StartServer
from tests.servers import Database, Kind


def make_app(url: str) -> tuple[Celery, DynPrio]:
    app = Celery("shop", broker=url, backend="cache+memory://", set_as_current=False)
    return app, DynPrio(app)


def publish(client: RedisClient, task_id: str, level: int = 5, body: str = "W1tdLCB7fSwge31d", **fields: Any) -> bytes:
    """As another language's producer may: JSON without blanks, and not in ASCII."""
    headers = {"id": task_id, "task": "a.task", HEADER: {"at": client.server_time(), **fields}}
    message = {"body": body, "headers": headers, "properties": {"priority": level, "delivery_tag": task_id}}
    raw = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
    client.redis.lpush(client.level_key("celery", level), raw)
    return raw


# Out of memory


@pytest.mark.parametrize("kind", ["valkey", "redis", "redis62"])
def test_pause_resume_and_drain_work_out_of_memory(
    start_server: StartServer, kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_server(kind)
    app, dynprio = make_app(server.url())
    client = RedisClient.from_app(app)
    for number in range(30):
        publish(client, f"task {number}", level=4)
    RedisBacklog(client, "celery").spill(20, 0.0)
    client.redis.config_set("maxmemory-policy", "noeviction")
    client.redis.config_set("maxmemory", client.redis.info("memory")["used_memory"] // 2)
    with pytest.raises(OutOfMemoryError):
        client.redis.set("anything", "more")
    client.redis.script_flush()
    operations = Operations(app, RedisBroker(client), dynprio.settings, "ada")
    operations.pause("too much")
    assert operations.paused()
    operations.resume()
    assert not operations.paused()
    (drained,) = operations.drain()
    assert (drained.returned, drained.merged) == (20, 10)
    assert "pause: the broker refused to keep it in the log of operations" in caplog.text
    (held,) = operations.hold(["task 3"])
    assert (held.answer, operations.release(["task 3"])[0].answer) == (Answer.DONE, Answer.DONE)
    client.close()
    app.close()


def test_what_waits_is_shown_and_cancelled_out_of_memory_although_workers_cannot_be_asked(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_server("valkey")
    app, dynprio = make_app(server.url())
    client = RedisClient.from_app(app)
    for number in range(3):
        publish(client, f"task {number}", level=3)
    client.redis.config_set("maxmemory-policy", "noeviction")
    client.redis.config_set("maxmemory", 1)
    operations = Operations(app, RedisBroker(client), dynprio.settings, "ada")
    assert [turn.task.id for turn in operations.pending().turns] == ["task 0", "task 1", "task 2"]
    assert operations.stats().workers == Workers()
    assert operations.explain("task 1").turn.task.id == "task 1"
    results = operations.cancel(["task 1", "unheard of"])
    assert [result.answer for result in results] == [Answer.DONE, Answer.REVOKED]
    assert "workers cannot be reached: the broker is out of memory" in caplog.text
    client.close()
    app.close()


# What is not allowed, or not possible


def wrapped(error: Exception) -> Exception:
    """As kombu raises it where it sends an event or asks a worker."""
    outer: Exception = OperationalError(str(error))
    outer.__cause__ = error
    return outer


REFUSED: list[tuple[Exception, str]] = [
    (redis.ResponseError("ERR ACL failure in script: User svc has no permissions to run the 'lrem' command"), "doctor"),
    (redis.ResponseError("@user_script: 1: The user executing the script can't run this command [LREM]"), "doctor"),
    (NoPermissionError("this user has no permissions to run the 'lrem' command"), "doctor"),
    (NoPermissionError("No permissions to access a key"), "doctor"),
    (ReadOnlyError("You can't write against a read only replica."), "broker_url to its primary"),
    (OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), "raise maxmemory"),
    (redis.ResponseError("MISCONF Redis is configured to save RDB snapshots"), "free some space"),
    (redis.AuthenticationError("invalid username-password pair or user is disabled."), "password in broker_url"),
    (redis.ResponseError("WRONGTYPE Operation against a key"), "refuses a command"),
    (wrapped(NoPermissionError("this user has no permissions to run the 'publish' command")), "doctor"),
]
AWAY: list[Exception] = [
    redis.ConnectionError("Error 111 connecting to 127.0.0.1"),
    redis.TimeoutError("Timeout reading from socket"),
    BusyLoadingError("Redis is loading the dataset in memory"),
    OSError("no route to host"),
    wrapped(redis.ConnectionError("Error 111 connecting to 127.0.0.1")),
]


@pytest.mark.parametrize(
    ("error", "kind", "remedy"),
    [
        *((error, BrokerRefusedError, remedy) for error, remedy in REFUSED),
        *((error, BrokerUnavailableError, "does not answer") for error in AWAY),
    ],
)
def test_an_error_of_the_broker_says_what_it_is_and_what_to_do(
    error: Exception, kind: type[Exception], remedy: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = explained(error)
    assert type(found) is kind
    assert remedy in str(found)
    assert str(error) in str(found)
    TickLog(ERRORS).failed("celery", error)
    (record,) = caplog.records
    assert remedy in record.getMessage()
    assert (record.levelname, record.exc_info) == ("ERROR" if kind is BrokerRefusedError else "WARNING", None)


def test_who_may_not_is_told_so_and_not_that_nobody_answers(start_server: StartServer) -> None:
    server = start_server("valkey")
    every = cast("Any", server.client())
    every.execute_command("ACL", "SETUSER", "svc", "on", ">p", "~*", "&*", "+@all", "-hlen")
    app, dynprio = make_app(server.url().replace("redis://", "redis://svc:p@"))
    with pytest.raises(BrokerRefusedError, match=r"may not do this.*doctor.*hlen"):
        dynprio.pending()
    every.execute_command("ACL", "SETUSER", "svc", ">q", "<p")
    app.pool.force_close_all()
    with pytest.raises(BrokerUnavailableError, match="refuses the user or the password"):
        dynprio.pending()
    every.close()
    app.close()


def test_who_may_not_speak_to_workers_cancels_what_waits_all_the_same(start_server: StartServer) -> None:
    server = start_server("valkey")
    every = cast("Any", server.client())
    every.execute_command("ACL", "SETUSER", "svc", "on", ">p", "~*", "&*", "+@all", "-publish")
    app, dynprio = make_app(server.url().replace("redis://", "redis://svc:p@"))
    client = RedisClient.from_app(app)
    publish(client, "task 1", level=3)
    operations = Operations(app, RedisBroker(client), dynprio.settings, "ada")
    results = operations.cancel(["task 1", "unheard of"])
    assert [result.answer for result in results] == [Answer.DONE, Answer.NOT_FOUND]
    assert operations.pending().turns == []
    client.close()
    every.close()
    app.close()


# Another clock


@pytest.fixture
def wrong_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """This host's clock is a day ahead of the broker's."""
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 86_400)


@pytest.mark.usefixtures("wrong_clock")
def test_a_leader_and_an_operator_with_a_wrong_clock_write_no_wrong_times(start_server: StartServer) -> None:
    server = start_server("valkey")
    app, dynprio = make_app(server.url())
    client = RedisClient.from_app(app)
    for number in range(3):
        raw = json.loads(publish(client, f"task {number}", w=5 * number))
        del raw["headers"][HEADER]["at"]
        client.redis.lpush("celery", json.dumps(raw))
        client.redis.lpop(client.level_key("celery", 5))
    report = reprioritizers(RedisBroker(client), dynprio.settings, "one")[0].tick()
    assert report.role is Role.LEADER
    assert abs(report.started - client.server_time()) < 60
    operations = Operations(app, RedisBroker(client), dynprio.settings, "ada")
    operations.reprioritize(["task 1"], {"deadline": 100})
    operations.hold(["task 1", "task 2"])
    held = [json.loads(raw)["headers"][HEADER] for raw in client.redis.hvals("dynprio:celery:held")]
    now = client.server_time()
    assert [fields["due"] for fields in held if "due" in fields] == [pytest.approx(now + 100, abs=60)]
    moves = [moved.at for fields in held for moved in moves_of(fields)]
    assert moves
    assert all(abs(at - now) < 60 for at in [*moves, *(fields["at"] for fields in held if "at" in fields)])
    client.close()
    app.close()


def test_the_brokers_clock_is_asked_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    mine = 10.0

    class Client:
        def server_time(self) -> float:
            asked.append(mine)
            return 1000.0 + 2 * mine  # it runs at twice the speed of ours

    clock = BrokerClock(cast("RedisClient", Client()), lambda: mine)
    assert clock() == 1020.0
    mine += redis_client.SYNC / 2
    assert clock() == 1020.0 + redis_client.SYNC / 2
    mine += redis_client.SYNC
    assert clock() == 1000.0 + 2 * mine
    assert len(asked) == 2


# Messages at the limit


def consumed(client: RedisClient) -> list[dict[str, Any]]:
    raws = [client.redis.rpop(client.level_key("celery", level)) for level in range(10)]
    return [json.loads(raw) for raw in raws if raw]


@pytest.mark.parametrize("letter", ["x", "é", "\\", '"'])
def test_what_our_own_writing_adds_never_makes_a_message_too_large(start_server: StartServer, letter: str) -> None:
    server = start_server("valkey")
    app, dynprio = make_app(server.url())
    client = RedisClient.from_app(app)
    small = len(publish(client, "big", body="", key="k" * 200))
    client.redis.flushdb()
    width = len(json.dumps(letter, ensure_ascii=False).encode()) - 2
    body = letter * ((MAX_BYTES - small - 5) // width)
    assert MAX_BYTES - 50 < len(publish(client, "big", body=body, key="k" * 200)) <= MAX_BYTES
    operations = Operations(app, RedisBroker(client), dynprio.settings, "ada")
    steps: list[Callable[[], Any]] = [
        lambda: operations.hold(["big"]),
        lambda: operations.reprioritize(["big"], {"key": "é" * 200, "deadline": 1e6}),
        lambda: operations.bump(["big"]),
        lambda: operations.release(["big"]),
        lambda: operations.reprioritize(["big"], {"level": 9}),
        lambda: operations.bump(["big"]),
    ]
    for step in steps * 3:
        assert [result.answer for result in step()] == [Answer.DONE]
        assert len(operations.pending().turns) == 1
    backlog = RedisBacklog(client, "celery")
    (task,) = backlog.read(0.0).levels[0]
    for place in (OVERFLOW, 6, HELD, 3):
        source = next(found.place for found in backlog.find(["big"], 0.0)["big"])
        backlog.apply([Move(task, source, place, 0.5, "score")])
        assert [found.place for found in backlog.find(["big"], 0.0)["big"]] == [place]
    (message,) = consumed(client)
    assert message["body"] == body
    client.close()
    app.close()


# Keys that somebody made something else of


def test_a_hint_of_another_type_ends_no_tick_and_is_named(valkey: Database, caplog: pytest.LogCaptureFixture) -> None:
    app, dynprio = make_app(valkey.url)
    client = RedisClient.from_app(app)
    hints = ("use", "runtimes", "spreads", "usage_changes", "running", "shares", "guidance", "celery:guidance")
    for each in hints:
        client.redis.lpush(client.app_key(each), "a list")
    for number in range(20):
        publish(client, f"task {number}", level=9)
    publish(client, "urgent", level=9, due=client.server_time() + 1.0)
    (leader,) = reprioritizers(RedisBroker(client), dynprio.settings, "test")
    moved = {move.task.id for _ in range(3) for move in leader.tick().moves}
    assert "urgent" in moved
    assert "key dynprio:running in the broker is no hash, so what it held is not known: DEL it" in caplog.text
    with dynprio.operations() as operations:
        assert len(operations.pending(workers=Workers()).turns) == 21
    leader.close()


#: What a key of ours may hold that it should not.
FOREIGN: tuple[Callable[[RedisClient, str], object], ...] = (
    lambda client, key: client.redis.set(key, "7:dedicated:somebody"),  # without an end, as a copy of data has it
    lambda client, key: client.redis.set(key, '{"v": 99, "bands": [NaN, 1e999]'),
    lambda client, key: client.redis.set(key, str(2**63 - 1)),
    lambda client, key: client.redis.rpush(key, "a list"),
    lambda client, key: client.redis.hset(key, mapping={"n": "nan", "a": "1e999 nan inf", "celery": "\0"}),
    lambda client, key: client.redis.xadd(key, {"entry": "[" * 10_000, "ended": "[", "from": "", "total": "1"}),
)

#: All keys of ours but those with tasks.
KEYS_OF_OURS = (
    *("use", "runtimes", "spreads", "usage_changes", "running", "shares", "guidance", "celery:guidance"),
    *("celery:levels", "celery:lease", "celery:fence", "celery:moves", "audit", "objectives", "histograms"),
    *("traces", "trace_sizes", "spans_dropped", "feed", "recording", "cancelling"),
)


@pytest.mark.parametrize("key", KEYS_OF_OURS)
def test_whatever_a_key_of_ours_holds_the_queue_is_put_in_order_and_shown(server: Database, key: str) -> None:
    app, dynprio = make_app(server.url)
    app.conf.dynprio_objectives = [Objective("fast", "a.*", within=60, on_breach="degrade", expendable="b.*")]
    client = RedisClient.from_app(app)
    broker = RedisBroker(client)
    for put in FOREIGN:
        client.redis.flushdb()
        put(client, client.app_key(key))
        for number in range(5):
            publish(client, f"task {number}", level=9)
        publish(client, "urgent", level=9, due=client.server_time() + 1.0)
        (leader,) = reprioritizers(broker, dynprio.settings, "test")
        moved = {move.task.id for _ in range(3) for move in leader.tick().moves}
        assert "urgent" in moved
        assert leader.tick().role is Role.LEADER
        broker.stores.guidance().read(["celery"])
        broker.stores.histograms().read()
        broker.stores.spans().dropped_counts()
        operations = Operations(app, broker, dynprio.settings, "ada")
        assert len(operations.pending(workers=Workers()).turns) == 6
        (queue,) = operations.stats(Workers()).queues
        assert queue.leader is not None
        assert queue.leader.owner == "test"
    client.close()
    app.close()
