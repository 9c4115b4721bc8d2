"""Whichever command of a script fails (not allowed, wrong type), nothing is lost, doubled or kept for ever."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, cast
from uuid import uuid4

import pytest
from redis.exceptions import ReadOnlyError, RedisError

from celery_dynprio.brokers import redis as backlogs
from celery_dynprio.brokers.redis.backlog import RedisBacklog
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.histograms import RedisHistograms
from celery_dynprio.brokers.redis.lease import RedisLease
from celery_dynprio.brokers.redis.running import RedisRunning
from celery_dynprio.brokers.redis.spans import RedisSpans
from celery_dynprio.brokers.redis.switch import RedisSwitch
from celery_dynprio.brokers.redis.usable import RedisUsableLevels
from celery_dynprio.brokers.redis.usage import RedisUsage
from celery_dynprio.levels import AddedSteps
from celery_dynprio.message import HEADER
from celery_dynprio.models import CANCELLED, HELD, OVERFLOW, Move, Outcome, PendingTask, Run, RunningTask, is_level
from celery_dynprio.tracing.records import LoneRun, SpanRecord
from tests.apps import make_app
from tests.conftest import StartServer
from tests.servers import Database

NOW: Final = 1_700_000_000.0

#: Words of the scripts that look like commands.
OPTIONS: Final = frozenset({"COUNT", "LEFT", "LIMIT", "MAXLEN", "MINID", "RANK", "RIGHT", "WITHVALUES"})

SCRIPTS: Final = sorted(path.name[:-4] for path in (files(backlogs) / "lua").iterdir() if path.name.endswith(".lua"))


def commands(script: str) -> list[str]:
    """All commands that the text of a script has."""
    text = (Path(str(files(backlogs))) / "lua" / f"{script}.lua").read_text()
    code = "\n".join(line.partition("--")[0] for line in text.splitlines())
    return sorted(set(re.findall(r"'([A-Z]{3,})'", code)) - OPTIONS)


class Bench:
    """One user of a server who may do all but one command; the test itself may do everything."""

    def __init__(self, database: Database, forbidden: str = "") -> None:
        self.every = cast("Any", database.client)
        self.name = f"user-{uuid4().hex}"
        minus = [f"-{forbidden.lower()}"] if forbidden else []
        self.every.execute_command("ACL", "SETUSER", self.name, "reset", "on", ">p", "~*", "&*", "+@all", *minus)
        url = database.url.replace("redis://", f"redis://{self.name}:p@")
        self.app = make_app(url, steps=AddedSteps(range(10)))
        self.client = RedisClient.from_app(self.app)
        self.all_powerful = RedisClient.from_app(make_app(database.url))

    def close(self) -> None:
        for client in (self.client, self.all_powerful):
            client.close()
        self.every.execute_command("ACL", "DELUSER", self.name)
        self.app.close()


@pytest.fixture
def bench(server: Database) -> Iterator[Callable[[str], Bench]]:
    made: list[Bench] = []

    def make(forbidden: str) -> Bench:
        made.append(Bench(server, forbidden))
        return made[-1]

    yield make
    for each in made:
        each.close()


def cases(script: str) -> list[Any]:
    return [pytest.param(command, id=f"{script}-{command}") for command in commands(script)]


# The script that moves messages


def task(number: int) -> PendingTask:
    return PendingTask(f"task {number}", "a.task", NOW)


def raw(number: int, level: int) -> str:
    headers = {"id": f"task {number}", "task": "a.task", HEADER: {"at": NOW}}
    body = "W1tdLCB7fSwge31d" * (1000 if number in LARGE else 200 if number == MEDIUM else 1)
    properties = {
        "priority": level,
        "delivery_info": {"exchange": "", "routing_key": "celery"},
        "delivery_tag": str(number),
    }
    return json.dumps({"body": body, "content-type": "application/json", "headers": headers, "properties": properties})


#: One move of each kind: between levels, to the end that is next, into and out of each parked place, in place.
MOVES: Final = [
    Move(task(0), 5, 2, 0.5, "score"),
    Move(task(1), 5, 0, 0.5, "bump", {"pin": 0}, first=True),
    Move(task(2), 5, 5, 0.5, "bump", {"pin": 5}, first=True),
    Move(task(3), 5, 5, 0.5, "change", {"w": 3}),
    Move(task(4), 5, OVERFLOW, 0.5, "overflow"),
    Move(task(5), 5, HELD, 0.5, "hold"),
    Move(task(6), 5, CANCELLED, 0.5, "cancel"),
    Move(task(7), OVERFLOW, 3, 0.5, "refill"),
    Move(task(8), HELD, 3, 0.5, "release"),
    Move(task(9), HELD, HELD, 0.5, "bump", {"pin": 0}),
    Move(task(10), HELD, CANCELLED, 0.5, "cancel"),
    Move(task(11), 5, 2, 0.5, "score"),  # a worker takes it first
    Move(task(12), 5, 5, 0.5, "change", {"w": 3}),
    Move(task(13), 5, 2, 0.5, "score"),
]
GONE: Final = 11

#: Those that are known without their bodies, and one that is known whole and found by its place.
LARGE: Final = {0, 1, 3, 4, 6, 11}
MEDIUM: Final = 13


def fill(client: RedisClient) -> None:
    for number, move in enumerate(MOVES):
        if is_level(move.source):
            client.redis.lpush(client.level_key("celery", move.source), raw(number, move.source))
        else:
            place = {OVERFLOW: "overflow", HELD: "held"}[move.source]
            client.redis.hset(client.queue_key("celery", place), f"task {number}", raw(number, 5))


def places(client: RedisClient) -> Counter[str]:
    """How often each task is anywhere."""
    raws: list[bytes] = []
    for level in range(10):
        key = client.level_key("celery", level)
        raws += client.redis.lrange(key, 0, -1) if client.redis.type(key) == b"list" else []
    for place in ("overflow", "held", "cancelled"):
        key = client.queue_key("celery", place)
        raws += client.redis.hvals(key) if client.redis.type(key) == b"hash" else []
    return Counter(json.loads(each)["headers"]["id"] for each in raws)


@pytest.mark.parametrize("forbidden", cases("move"))
def test_a_move_that_is_not_allowed_leaves_each_message_once(
    bench: Callable[[str], Bench], forbidden: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = bench(forbidden)
    fill(made.all_powerful)
    reading = RedisBacklog(made.all_powerful, "celery")
    lease = RedisLease(made.all_powerful, "celery", "leader", ttl=600)
    moving = RedisBacklog(made.client, "celery")
    reading.read(NOW)
    refused = []
    everyone = places(made.all_powerful)
    for fence in (None, lease.acquire()):
        for batch in (*([move] for move in MOVES), MOVES, MOVES[::-1]):
            # What moving knows of the queue comes from one who may read it.
            reading.find([move.task.id for move in batch], NOW)
            reading.read(NOW)
            moving._mover._front = reading._front
            moving._mover.sources = reading._mover.sources  # type: ignore[method-assign]
            made.every.lrem(made.all_powerful.level_key("celery", 5), 1, raw(GONE, 5))
            everyone.pop(f"task {GONE}", None)
            try:
                moving.apply(batch, fence, audit="{}")
            except RedisError as exc:
                refused.append(exc)
            assert places(made.all_powerful) == everyone
    assert set(everyone.values()) == {1}
    told = "refused to keep it in the log" in caplog.text
    # Only a counter that cannot count is deleted.
    assert refused or forbidden == "DEL" or (told and forbidden == "XADD")
    assert all("permission" in str(exc) or "can't run this command" in str(exc) for exc in refused)


@pytest.mark.parametrize("key", range(16))
def test_a_move_that_meets_a_key_of_another_type_leaves_each_message_once(
    bench: Callable[[str], Bench], key: int
) -> None:
    made = bench("")
    fill(made.client)
    backlog = RedisBacklog(made.client, "celery")
    backlog.read(NOW)
    everyone = places(made.client)
    wrong = backlog._mover._keys[key]
    aside = bool(made.every.exists(wrong) and made.every.rename(wrong, "aside"))
    made.every.zadd(wrong, {"other": 1})
    fence = None if key else "1:dedicated:me"
    for batch in (*([move] for move in MOVES), MOVES):
        with suppress(RedisError):
            backlog.apply(batch, fence, audit="{}")
    made.every.delete(wrong)
    if aside:
        made.every.rename("aside", wrong)
    assert places(made.client) == everyone


def test_what_comes_before_an_error_in_one_call_is_made_and_known(bench: Callable[[str], Bench]) -> None:
    made = bench("")
    fill(made.client)
    backlog = RedisBacklog(made.client, "celery")
    backlog.read(NOW)
    made.every.zadd(made.client.level_key("celery", 3), {"other": 1})
    moves = [Move(task(0), 5, 2, 0.5, "score"), Move(task(1), 5, 3, 0.5, "score"), Move(task(3), 5, 2, 0.5, "score")]
    with pytest.raises(RedisError, match=r"WRONGTYPE.*\[LPOP\]"):
        backlog.apply(moves)
    assert backlog.moves() == 1
    assert backlog.apply([Move(task(0), 2, 4, 0.5, "score")]) == [Outcome.MOVED]


# The lease


@pytest.mark.parametrize("forbidden", cases("lease_acquire"))
def test_who_may_not_take_the_lease_leaves_it_to_who_has_it(bench: Callable[[str], Bench], forbidden: str) -> None:
    made = bench(forbidden)
    owner = RedisLease(made.all_powerful, "celery", "one", "embedded", ttl=600)
    fence = owner.acquire()
    if forbidden == "PEXPIRE":  # only the one who has it renews it
        with pytest.raises(RedisError):
            RedisLease(made.client, "celery", "one", "embedded", ttl=600).acquire()
    else:
        with pytest.raises(RedisError):
            RedisLease(made.client, "celery", "two", "dedicated", ttl=600).acquire()
    assert owner.holder() is not None
    assert owner.acquire() == fence


@pytest.mark.parametrize("forbidden", cases("lease_release"))
def test_who_may_not_give_the_lease_back_leaves_it_to_expire(bench: Callable[[str], Bench], forbidden: str) -> None:
    made = bench(forbidden)
    held = RedisLease(made.all_powerful, "celery", "one", ttl=600)
    fence = held.acquire()
    held._release = made.client.script("lease_release")
    with pytest.raises(RedisError):
        held.release()
    assert held.acquire() == fence
    assert 0 < made.every.ttl("dynprio:celery:lease") <= 600


@pytest.mark.parametrize("forbidden", cases("switch"))
def test_who_may_not_pause_leaves_a_pause_as_it_is(bench: Callable[[str], Bench], forbidden: str) -> None:
    made = bench(forbidden)
    for paused in (False, True):
        with pytest.raises(RedisError):
            RedisSwitch(made.client).pause()
        assert RedisSwitch(made.all_powerful).paused() is paused
        RedisSwitch(made.all_powerful).pause()


# What is counted


@pytest.mark.parametrize("forbidden", cases("use_record"))
def test_use_that_cannot_be_kept_within_its_bound_is_not_kept(
    bench: Callable[[str], Bench], forbidden: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celery_dynprio.brokers.redis.usage.MAX_REMEMBERED", 20)
    made = bench(forbidden)
    kept = RedisUsage(made.client)
    for start in range(0, 200, 10):
        with pytest.raises(RedisError):
            kept.add([Run(f"name {n}", f"key {n}", 1.0) for n in range(start, start + 10)])
    assert made.every.keys() == []


@pytest.mark.parametrize("forbidden", cases("running_start"))
def test_runs_that_cannot_end_by_themselves_are_not_noted(bench: Callable[[str], Bench], forbidden: str) -> None:
    made = bench(forbidden)
    with pytest.raises(RedisError):
        RedisRunning(made.client).start([RunningTask("1", "a.task", "acme", NOW)], NOW)
    assert made.every.keys() == []


@pytest.mark.parametrize("forbidden", cases("histograms_record"))
def test_histograms_that_cannot_expire_are_not_kept(bench: Callable[[str], Bench], forbidden: str) -> None:
    made = bench(forbidden)
    with pytest.raises(RedisError):
        RedisHistograms(made.client).add([Run("a.task", "", 1.0)])
    assert made.every.keys() == []


@pytest.mark.parametrize("forbidden", cases("trace_record"))
def test_traces_that_cannot_be_kept_within_their_bounds_are_not_kept(
    bench: Callable[[str], Bench], forbidden: str
) -> None:
    made = bench(forbidden)
    spans = RedisSpans(made.client, ttl=100, spans=4, total=10)
    everyone = RedisSpans(made.all_powerful, ttl=100, spans=4, total=10)
    for number in range(0, 60, 5):
        records = [
            SpanRecord(f"{trace:032x}", f"{each}", f"task {each}", "a.task", "SUCCESS")
            for trace in range(number, number + 5)
            for each in range(5)
        ]
        if number:
            with pytest.raises(RedisError):
                spans.add(records)
        everyone.add(records[:5])
    for key in made.every.keys("dynprio:trace*"):
        assert made.every.pttl(key) > 0
    assert made.every.zcard("dynprio:traces") < 20
    hashes = {key.rpartition(b":")[2] for key in made.every.keys("dynprio:trace:*")}
    assert hashes <= set(made.every.zrange("dynprio:traces", 0, -1))


@pytest.mark.parametrize("forbidden", cases("lone_runs"))
def test_lone_runs_that_cannot_be_kept_within_their_bounds_are_not_kept(
    bench: Callable[[str], Bench], forbidden: str
) -> None:
    made = bench(forbidden)
    run = LoneRun("t", "k", "1", "a.task", "celery", "w@h", None, None, None, None, None)
    for _ in range(5):
        with pytest.raises(RedisError):
            RedisSpans(made.client, total=1).add([], [run])
    assert made.every.keys() == []


# The script that empties levels


@pytest.mark.parametrize("forbidden", cases("levels"))
def test_levels_that_may_not_be_emptied_keep_each_message_once(bench: Callable[[str], Bench], forbidden: str) -> None:
    made = bench(forbidden)
    fill(made.all_powerful)
    everyone = places(made.all_powerful)
    fence = RedisLease(made.all_powerful, "celery", "leader", ttl=600).acquire()
    levels = RedisUsableLevels(made.client, "celery")
    refused = 0
    for usable in (range(10), levels.plain):
        try:
            levels.keep(usable, fence)
        except RedisError:
            refused += 1
        assert places(made.all_powerful) == everyone
    assert refused
    assert made.every.ttl("dynprio:celery:levels") != -1, "it would be used for ever"


# A server that takes no writes


def test_a_replica_moves_nothing(start_server: StartServer) -> None:
    own = start_server("redis")
    made = Bench(Database(own, 0, own.client()))
    fill(made.client)
    backlog = RedisBacklog(made.client, "celery")
    backlog.read(NOW)
    everyone = places(made.client)
    made.every.replicaof("127.0.0.1", "1")
    with pytest.raises(ReadOnlyError):
        backlog.apply(MOVES)
    with pytest.raises(ReadOnlyError):
        RedisLease(made.client, "celery", "one").acquire()
    with pytest.raises(ReadOnlyError):
        RedisUsage(made.client).add([Run("a.task", "", 1.0)])
    assert places(made.client) == everyone
    made.every.execute_command("REPLICAOF", "NO", "ONE")
    made.close()


def test_every_script_is_tested_here() -> None:
    """Reads need no more than to raise (see test_backlog), and a part of others is tested with them."""
    writing = {
        "move",
        "lease_acquire",
        "lease_renew",
        "lease_release",
        "use_record",
        "running_start",
        "histograms_record",
        "trace_record",
        "lone_runs",
        "levels",
        "switch",
    }
    assert set(SCRIPTS) == writing | {"find", "lease_holders", "news", "parked", "short"}
