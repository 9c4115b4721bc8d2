"""Messages that are too large to be moved are never fetched, and no read takes much of the server's memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from celery_dynprio.brokers.redis import backlog as backlogs
from celery_dynprio.brokers.redis import look as looks
from celery_dynprio.brokers.redis.backlog import CHECKED, RedisBacklog
from celery_dynprio.brokers.redis.broker import RedisBroker
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.moving import BATCH_BYTES
from celery_dynprio.brokers.redis.reading import CHUNK_BYTES, Pace, Reader, _wheres, where_at
from celery_dynprio.message import HEADER, MAX_BYTES
from celery_dynprio.models import HELD, OVERFLOW, Move, Outcome
from celery_dynprio.operators.fates import Fates
from tests.apps import make_app
from tests.servers import Database

NOW = 1_700_000_000.0

#: Bytes of one message that is too large, and how many wait.
HUGE, COUNT = 2 * MAX_BYTES, 12


class Bench:
    def __init__(self, database: Database) -> None:
        self.app = make_app(database.url)
        self.client = RedisClient.from_app(self.app)
        self.redis: Any = self.client.redis
        self.backlog = RedisBacklog(self.client, "celery")

    def publish(self, task_id: str, level: int = 5, size: int = 100) -> bytes:
        raw = message(task_id, size)
        self.redis.lpush(self.client.level_key("celery", level), raw)
        return raw

    def sent(self, doing: Callable[[], object]) -> int:
        """How many bytes the server sent for this."""
        before = self.redis.info("stats")["total_net_output_bytes"]
        doing()
        return int(self.redis.info("stats")["total_net_output_bytes"] - before)

    def calls(self, command: str, doing: Callable[[], object]) -> int:
        """How often this made the server call a command."""
        self.redis.config_resetstat()
        doing()
        return int(self.redis.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"])

    def close(self) -> None:
        self.client.close()
        self.app.close()


def message(task_id: str, size: int) -> bytes:
    headers = {"id": task_id, "task": "a.task", HEADER: {"at": NOW}}
    delivery = {"exchange": "", "routing_key": "celery"}
    properties = {"delivery_mode": 2, "delivery_info": delivery, "priority": 5, "delivery_tag": str(uuid4())}
    kind = {"content-type": "application/json", "content-encoding": "utf-8"}
    return json.dumps({"body": "A" * size, **kind, "headers": headers, "properties": properties}).encode()


@pytest.fixture(autouse=True)
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """All other suites read all at each read, to compare."""
    monkeypatch.delenv(CHECKED)


@pytest.fixture
def bench(server: Database) -> Iterator[Bench]:
    made = Bench(server)
    yield made
    made.close()


@pytest.fixture
def mixed(bench: Bench) -> Bench:
    """Messages that are too large among others."""
    for number in range(COUNT):
        bench.publish(f"small {number}")
        bench.publish(f"huge {number}", size=HUGE)
    return bench


SMALL_IDS = {f"small {number}" for number in range(COUNT)}

LOOKS: dict[str, Callable[[RedisBacklog], set[str]]] = {
    "read": lambda backlog: {task.id for task in backlog.read(NOW).levels[5]},
    "find": lambda backlog: set(backlog.find(["small 3"], NOW)) | (SMALL_IDS - {"small 3"}),
    "find many": lambda backlog: set(backlog.find([*SMALL_IDS, "other"], NOW)),
    "scan": lambda backlog: {task.id for _, task, _ in backlog.scan(NOW)},
    "spill": lambda backlog: (
        {task.id for task in backlog.parked(OVERFLOW, NOW)} if backlog.spill(100, NOW) == COUNT else set()
    ),
}


@pytest.mark.parametrize("look", LOOKS)
def test_what_is_too_large_is_never_fetched_and_the_rest_is_found(mixed: Bench, look: str) -> None:
    found: list[set[str]] = []
    sent = mixed.sent(lambda: found.append(LOOKS[look](mixed.backlog)))
    assert found == [SMALL_IDS]
    assert sent < 200_000


def test_what_is_too_large_is_counted_by_who_reads_and_by_who_scans(mixed: Bench) -> None:
    assert mixed.backlog.read(NOW).foreign == {"too large": COUNT}
    scan = mixed.backlog.scan(NOW)
    assert len(list(scan)) == COUNT
    assert scan.foreign == {"too large": COUNT}


def test_few_messages_of_unknown_size_are_in_the_servers_memory_at_a_time(bench: Bench) -> None:
    for number in range(400):
        bench.publish(f"task {number}")
    assert bench.calls("lrange", lambda: bench.backlog.read(NOW)) >= 100


def test_what_was_read_before_is_read_as_it_is(bench: Bench) -> None:
    for number in range(400):
        bench.publish(f"task {number}")
    bench.backlog.read(NOW)
    assert bench.calls("evalsha", lambda: bench.backlog.read(NOW)) == 1
    bench.publish("huge", size=HUGE)
    bench.publish("task 400")
    read: list[Any] = []
    sent = bench.sent(lambda: read.append(bench.backlog.read(NOW)))
    assert sent < 300_000
    assert len(read[0].levels[5]) == 401
    assert read[0].foreign == {"too large": 1}


def test_what_a_worker_gave_back_behind_what_was_read_before_is_fetched_once_at_most(bench: Bench) -> None:
    for number in range(40):
        bench.publish(f"task {number}")
    bench.backlog.read(NOW)
    bench.redis.rpush(bench.client.level_key("celery", 5), message("huge", HUGE))
    reads = [bench.backlog.read(NOW)]
    sent = bench.sent(lambda: reads.append(bench.backlog.read(NOW)))
    assert sent < 200_000
    assert [(len(each.levels[5]), each.foreign) for each in reads] == [(40, {"too large": 1})] * 2


def test_of_large_messages_only_what_tells_the_task_crosses_the_network(bench: Bench) -> None:
    for number in range(40):
        bench.publish(f"task {number}", size=100_000)
    read: list[Any] = []
    assert bench.sent(lambda: read.append(bench.backlog.read(NOW))) < 40 * 1000
    assert len(read[0].levels[5]) == 40
    moves = [Move(task, 5, 2, 0.5, "score") for task in read[0].levels[5]]
    before = bench.redis.info("stats")["total_net_input_bytes"]
    assert bench.backlog.apply(moves) == [Outcome.MOVED] * 40
    assert bench.redis.info("stats")["total_net_input_bytes"] - before < 40 * 3000
    found = bench.redis.lrange(bench.client.level_key("celery", 2), 0, -1)
    assert {len(json.loads(raw)["body"]) for raw in found} == {100_000}
    assert [task.id for task in bench.backlog.read(NOW).levels[2]] == [f"task {number}" for number in range(40)]


def test_what_is_too_large_behind_them_is_fetched_once_at_most(bench: Bench) -> None:
    for number in range(8):
        bench.publish(f"huge {number}", size=HUGE)
    for number in range(8):
        bench.publish(f"task {number}", size=100_000)
    reads = []
    first = bench.sent(lambda: reads.append(bench.backlog.read(NOW)))
    later = bench.sent(lambda: reads.append(bench.backlog.read(NOW)))
    assert [(len(each.levels[5]), each.foreign) for each in reads] == [(8, {"too large": 8})] * 2
    assert first < 5 * HUGE
    assert later < 8 * 100_000 + HUGE


def test_a_level_with_large_messages_is_not_looked_at_all_the_time(
    mixed: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "LARGE_PAUSE", 1.0)
    first = mixed.backlog.read(NOW)
    mixed.publish("new")
    assert mixed.backlog.apply([Move(first.levels[5][0], 5, 2, 0.5, "score")]) == [Outcome.MOVED]
    again: list[Any] = []
    assert mixed.calls("evalsha", lambda: again.append(mixed.backlog.read(NOW))) == 1  # level 2
    assert again[0].levels[5] == first.levels[5][1:]
    assert again[0].levels[2] == first.levels[5][:1]
    mixed.backlog.close()
    assert len(mixed.backlog.read(NOW).levels[5]) == COUNT


def test_the_doctor_and_the_fates_read_no_more_than_they_need(mixed: Bench) -> None:
    assert mixed.sent(lambda: Reader(mixed.client).look(mixed.client.level_key("celery", 5), 0, 10)) < 100_000
    for number in range(5):
        raw = json.dumps([json.loads(message(f"huge {number}", HUGE)), "", "celery"])
        mixed.redis.hset("unacked", f"tag {number}", raw)
    fates = Fates(mixed.app, RedisBroker(mixed.client), ["celery"])
    assert list(fates._unacknowledged(["huge 3"])) == ["huge 3"]
    assert mixed.calls("hmget", lambda: list(fates._unacknowledged(["huge 3"]))) == 5


def test_large_parked_messages_are_read_few_at_a_time(bench: Bench) -> None:
    for number in range(60):
        bench.redis.hset("dynprio:celery:held", f"task {number}", message(f"task {number}", 200_000))
    assert bench.calls("hscan", lambda: list(bench.backlog.parked(HELD, NOW))) >= 4
    assert bench.calls("hmget", lambda: bench.backlog.find([f"task {n}" for n in range(60)], NOW)) >= 10


def test_a_pace_follows_the_size_of_what_was_read() -> None:
    pace = Pace()
    sizes = [pace.size]
    for count, size in ((20, 2_000), (80, 8_000), (200, 200 * 100_000), (5, 500), (0, 0)):
        pace.learn(count, size)
        sizes.append(pace.size)
    assert sizes == [20, 80, 200, 4, 16, 64]
    assert CHUNK_BYTES // 100_000 == 5


@pytest.mark.parametrize("depth", range(8))
def test_places_in_a_row_are_those_of_each(depth: int) -> None:
    for start in range(10):
        assert _wheres(start, 4, depth) == [where_at(index, depth) for index in range(start, start + 4)]


def test_a_first_read_of_very_much_is_spread_over_several(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlogs, "READ_BYTES", 1_000_000)
    for number in range(40):
        bench.publish(f"task {number}", size=100_000)
    bench.publish("other", level=9)
    found: list[int] = []
    while not found or found[-1] < 40:
        calls = bench.calls("lrange", lambda: found.append(len(bench.backlog.read(NOW).levels[5])))
        assert calls <= 1_000_000 / 100_000 + 10
        assert len(found) < 10
        bench.publish(f"new {len(found)}")
    assert len(found) > 2
    snapshot = bench.backlog.read(NOW)
    assert [task.id for task in snapshot.levels[5]][:40] == [f"task {number}" for number in range(40)]
    assert len(snapshot.levels[5]) == 40 + len(found)
    assert len(snapshot.levels[9]) == 1
    move = Move(snapshot.levels[5][7], 5, 2, 0.5, "score")
    assert bench.backlog.apply([move]) == [Outcome.MOVED]


def test_who_looks_once_reads_all_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlogs, "READ_BYTES", 100_000)
    for number in range(40):
        bench.publish(f"task {number}", size=100_000)
    assert len(bench.backlog.read(NOW, overflow=False).levels[5]) == 40


def test_what_is_parked_and_brought_back_leaves_its_body_in_the_broker(bench: Bench) -> None:
    for number in range(40):
        bench.publish(f"task {number}", size=100_000)
    before = bench.redis.info("stats")
    assert bench.backlog.spill(40, NOW) == 40
    other = RedisBacklog(bench.client, "celery")
    overflow = other.read(NOW).overflow
    assert len(overflow) == 40
    moves = [Move(task, OVERFLOW, 2, 0.5, "refill") for task in overflow.values()]
    assert other.apply(moves) == [Outcome.MOVED] * 40
    after = bench.redis.info("stats")
    for way in ("input", "output"):
        assert after[f"total_net_{way}_bytes"] - before[f"total_net_{way}_bytes"] < 40 * 10_000
    found = bench.redis.lrange(bench.client.level_key("celery", 2), 0, -1)
    assert {len(json.loads(raw)["body"]) for raw in found} == {100_000}
    assert {json.loads(raw)["properties"]["priority"] for raw in found} == {2}


# What moving large messages costs


def test_a_move_of_a_large_message_costs_more(bench: Bench) -> None:
    for number in range(50):
        bench.publish(f"small {number}", level=4)
        bench.publish(f"large {number}", level=5, size=100_000)
    snapshot = bench.backlog.read(NOW)
    small, large = (
        [bench.backlog.cost(Move(task, level, 2, 0.5, "score")) for task in snapshot.levels[level]] for level in (4, 5)
    )
    assert min(large) > 5 * max(small)
    assert max(large) < 1.1 * min(large), "they are found by their places, however many of one size are before them"


def test_what_was_parked_costs_by_its_size_whoever_parked_it(bench: Bench) -> None:
    bench.publish("large", size=100_000)
    bench.publish("small")
    bench.backlog.read(NOW)
    bench.backlog.spill(2, NOW)

    def costs(backlog: RedisBacklog) -> list[float]:
        overflow = backlog.read(NOW).overflow
        return [backlog.cost(Move(overflow[each], OVERFLOW, 2, 0.5, "refill")) for each in ("large", "small")]

    known, new = costs(bench.backlog), costs(RedisBacklog(bench.client, "celery"))
    assert known == new
    assert known[0] > 5 * known[1]


def test_one_call_of_the_script_moves_fewer_messages_the_larger_they_are(bench: Bench) -> None:
    def calls(size: int, level: int) -> int:
        for number in range(60):
            bench.publish(f"{size} {number}", level=level, size=size)
        tasks = bench.backlog.read(NOW).levels[level]
        moves = [Move(task, level, 2, 0.5, "score") for task in tasks[::-1]]
        return bench.calls("evalsha", lambda: bench.backlog.apply(moves))

    calls(100, 3)  # the server may not know the script yet, and is called once more then
    assert calls(100, 4) <= 3
    assert calls(20_000, 5) > 60 * 2 * 20_000 / BATCH_BYTES
