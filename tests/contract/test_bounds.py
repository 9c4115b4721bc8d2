"""No call of a script works through more than so many messages and bytes, whatever waits: what it does is counted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import pytest
from redis.commands.core import Script

from celery_dynprio.brokers.redis.backlog import CHECKED, RedisBacklog
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.feed import CHUNK, TRIMMED, RedisFeed
from celery_dynprio.brokers.redis.front import REACH
from celery_dynprio.brokers.redis.hashes import AT_ONCE
from celery_dynprio.brokers.redis.moving import BATCH_BYTES, SCRIPT_WORK
from celery_dynprio.brokers.redis.news import MOST_LOOKED, MOST_MESSAGES
from celery_dynprio.brokers.redis.reading import CHUNK_BYTES
from celery_dynprio.brokers.redis.running import RedisRunning
from celery_dynprio.brokers.redis.spans import IDS, RedisSpans
from celery_dynprio.brokers.redis.stubs import SMALL
from celery_dynprio.brokers.redis.usage import RedisUsage
from celery_dynprio.message import HEADER, MAX_BYTES
from celery_dynprio.models import OVERFLOW, Move, Outcome
from tests.apps import make_app
from tests.servers import Database

NOW: Final = 1_700_000_000.0
QUEUE: Final = "celery"
LEVEL: Final = 5

#: A message that the server passes counts like so many bytes, in the scripts that read.
PASS: Final = 2

#: The same in the script that moves, in the microseconds that it counts; and a byte that is compared with one of it.
PASSED: Final = 0.05
COMPARED: Final = 0.00013

#: Around a script: counts the messages that its commands pass in lists, and the bytes that go in and out of them.
BEFORE: Final = """
local real, passed, bytes = redis, 0, 0
local function weigh(value)
  if type(value) == 'string' then bytes = bytes + #value end
  if type(value) == 'table' then for _, each in ipairs(value) do weigh(each) end end
end
local function pass(command, key, a, b, c, d, e, f)
  if command ~= 'LRANGE' and command ~= 'LPOS' and command ~= 'LREM' then return end
  local length = real.call('LLEN', key)
  if command == 'LRANGE' then
    local from, to = tonumber(a), tonumber(b)
    from, to = from < 0 and from + length or from, to < 0 and to + length or to
    passed = passed + math.max(math.min(from, length - from), 0) + math.max(math.min(to, length - 1) - from + 1, 0)
    return
  end
  local wanted, rank, most = a, c, f or length
  if command == 'LREM' then wanted, rank, most = b, a, length end
  local index = real.call('LPOS', key, wanted, 'RANK', rank, 'MAXLEN', most)
  passed = passed + (index and (tonumber(rank) > 0 and index + 1 or length - index) or math.min(most, length))
end
local function counted(run)
  return function(command, ...)
    if real.call('EXISTS', (...)) == 1 and real.call('TYPE', (...)).ok == 'list' then pass(command, ...) end
    local answer = run(command, ...)
    weigh({ ... })
    weigh(answer)
    return answer
  end
end
local redis = setmetatable({ call = counted(real.call), pcall = counted(real.pcall) }, { __index = real })
local function script()
"""
AFTER: Final = """
end
local answer = script()
weigh(ARGV)
weigh(answer)
real.call('RPUSH', 'worked', cjson.encode({ '%s', passed, bytes }))
return answer
"""


class Work(NamedTuple):
    """What one call of a script did."""

    script: str
    passed: int
    size: int


class Counted:
    """A backlog whose scripts are counted."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        plain = RedisClient.script

        def script(client: RedisClient, name: str, *before: str) -> Script:
            source = plain(client, name, *before).script
            made: Script = client.redis.register_script(BEFORE + str(source) + AFTER % name)
            return made

        monkeypatch.setattr(RedisClient, "script", script)
        self.app = make_app(database.url)
        self.client = RedisClient.from_app(self.app)
        self.redis: Any = self.client.redis
        self.backlog = RedisBacklog(self.client, QUEUE)

    def publish(self, count: int, size: int) -> None:
        for start in range(0, count, 500):
            raws = [message(number, size) for number in range(start, min(start + 500, count))]
            self.redis.lpush(self.client.level_key(QUEUE, LEVEL), *raws)

    def work(self) -> dict[str, Work]:
        """The most that any call of each script did."""
        most: dict[str, Work] = {}
        for raw in self.redis.lrange("worked", 0, -1):
            name, passed, size = json.loads(raw)
            before = most.get(name, Work(name, 0, 0))
            most[name] = Work(name, max(before.passed, passed), max(before.size, size))
        return most

    def close(self) -> None:
        self.client.close()
        self.app.close()


def message(number: int, size: int) -> bytes:
    headers = {"id": f"task {number}", "task": "a.task", HEADER: {"at": NOW}}
    delivery = {"exchange": "", "routing_key": QUEUE}
    properties = {"delivery_info": delivery, "priority": LEVEL, "body_encoding": "base64", "delivery_tag": f"{number}"}
    about = {"content-type": "application/json", "content-encoding": "utf-8"}
    return json.dumps({"body": "A" * size, **about, "headers": headers, "properties": properties}).encode()


@pytest.fixture
def counted(server: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    monkeypatch.delenv(CHECKED)
    made = Counted(server, monkeypatch)
    yield made
    made.close()


@pytest.mark.parametrize(("count", "size"), [(16_000, 100), (600, 20_000), (40, 400_000), (12, MAX_BYTES - 1000)])
def test_the_work_of_each_call_is_bounded(counted: Counted, count: int, size: int) -> None:
    counted.publish(count, size)
    backlog = counted.backlog
    backlog.find([f"task {count // 2}"], NOW)
    tasks = backlog.read(NOW).levels[LEVEL]
    chosen = tasks[:: max(len(tasks) // 50, 1)]
    assert set(backlog.apply([Move(task, LEVEL, 3, 0.5, "score") for task in chosen])) == {Outcome.MOVED}
    assert backlog.spill(count // 4, NOW) == count // 4
    snapshot = backlog.read(NOW)
    parked = list(snapshot.overflow.values())[:200]
    moves = [Move(task, OVERFLOW, LEVEL, 0.5, "score") for task in parked]
    assert set(backlog.apply(moves)) == {Outcome.MOVED}
    backlog.read(NOW)
    assert backlog.spill(count // 4, NOW) == count // 4
    assert len(RedisBacklog(counted.client, QUEUE).read(NOW).overflow) >= count // 4
    work, largest = counted.work(), len(message(count, size))
    assert work["find"].passed <= CHUNK_BYTES / PASS + count
    assert work["find"].size <= 2 * (CHUNK_BYTES + largest)
    assert work["news"].passed <= MOST_LOOKED / PASS + MOST_MESSAGES + count
    assert work["news"].size <= 2 * (MOST_LOOKED + 2 * largest)
    assert work["parked"].size <= 3 * (CHUNK_BYTES + 2 * largest), "a step through a hash may tell more than was asked"
    each = PASSED if largest > SMALL else PASSED + COMPARED * largest
    assert work["move"].passed <= SCRIPT_WORK / each + REACH, "the last one may have to be looked for first"
    assert work["move"].size <= 3 * (BATCH_BYTES + 2 * largest)


def test_what_is_learned_and_what_runs_is_read_in_parts(server: Database) -> None:
    app = make_app(server.url)
    client = RedisClient.from_app(app)
    count = 8 * AT_ONCE
    names = [f"task {number}" for number in range(count)]
    learned = dict.fromkeys(names, "2 1 0")
    runs = {name: f"{NOW} {NOW + 60} {json.dumps([name, 'key'])}" for name in names}
    client.redis.hset(client.app_key("runtimes"), mapping=learned)
    client.redis.hset(client.app_key("running"), mapping=runs)
    client.redis.config_resetstat()
    assert len(RedisUsage(client).read(NOW).runtimes) == count
    assert {run.name for run in RedisRunning(client).read(NOW)} == set(names)
    calls = client.redis.info("commandstats")
    assert "cmdstat_hgetall" not in calls
    assert calls["cmdstat_hscan"]["calls"] > count / AT_ONCE
    client.close()
    app.close()


def test_what_recorders_are_told_is_read_and_deleted_in_parts(server: Database) -> None:
    app = make_app(server.url)
    client = RedisClient.from_app(app)
    feed, count, key = RedisFeed(client), 3 * TRIMMED, client.app_key("feed")
    assert feed.read() == []
    pipe = client.redis.pipeline(transaction=False)
    for number in (*range(1, count + 1), 1_000_000):
        pipe.xadd(key, {"from": "w", "total": number, "ended": ""}, id=f"{number}-0")
    pipe.execute()
    client.redis.config_resetstat()
    assert len(feed.read()) == count + 1
    calls = client.redis.info("commandstats")
    assert calls["cmdstat_xrange"]["calls"] > count / CHUNK
    assert calls["cmdstat_xtrim"]["calls"] > count / TRIMMED
    assert client.redis.xlen(key) < 100 < count, "Redis deletes whole nodes of a stream"
    client.close()
    app.close()


def test_traces_are_searched_in_parts(server: Database) -> None:
    app = make_app(server.url)
    client = RedisClient.from_app(app)
    count = 3 * IDS
    client.redis.zadd(client.app_key("traces"), {f"{number:032x}": NOW + number for number in range(count)})
    spans = RedisSpans(client)
    client.redis.hset(client.app_key(f"trace:{7:032x}"), "sought 0", "0{}")
    client.redis.config_resetstat()
    found = spans.read("sought")
    assert found is not None
    assert found.trace_id == f"{7:032x}"
    assert spans.ids_with("sou") == {"sought"}
    assert client.redis.info("commandstats")["cmdstat_zrevrange"]["calls"] >= 2 * (count / IDS + 1)
    assert "cmdstat_zrange" not in client.redis.info("commandstats")
    client.close()
    app.close()
