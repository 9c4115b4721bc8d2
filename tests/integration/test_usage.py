"""Learned use in a real Redis, measured by real workers."""

from __future__ import annotations

import time
from typing import Any

import pytest

from celery_dynprio.brokers.redis import usage as learned
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.running import RedisRunning
from celery_dynprio.brokers.redis.usage import RedisUsage
from celery_dynprio.models import PendingTask, Run
from tests.apps import make_app
from tests.conftest import MakeProject, StartServer, StartWorker
from tests.processes import wait_until
from tests.servers import Database

TASKS = """
    from celery_dynprio.assembly import connect
    from celery_dynprio.settings import Settings
    from celery_dynprio.tracing.propagation import Propagation
    from celery_dynprio.worker import sender
    from celery_dynprio.worker.recorder import Recorder

    sender.LAST_SEND_TIMEOUT = 60.0
    propagation = Propagation(app, lambda: None)
    recorder = Recorder(app, lambda: Settings.from_app(app), lambda: connect(app))
    propagation.follower = recorder.follow
    propagation.connections().connect()
    recorder.connect()

    @app.task
    def work(seconds):
        import time
        time.sleep(seconds)
"""


def redis_usage(url: str, half_life: float = 600.0, prefix: str = "") -> RedisUsage:
    return RedisUsage(RedisClient.from_app(make_app(url, prefix=prefix)), half_life)


def test_what_is_added_is_read(server: Database) -> None:
    kept = redis_usage(server.url)
    kept.add([Run("a", "x", 1.0), Run("a", "y", 3.0), Run("b", "", 5.0)])
    kept.add([Run("a", "x", 2.0)])
    runtimes, use = redis_usage(server.url).read(time.time())
    assert runtimes == pytest.approx({"a": 2.0, "b": 5.0})
    assert use == pytest.approx({"x": 3.0, "y": 3.0, "": 5.0}, rel=0.05)


def test_use_decays_by_the_clock_of_the_server(valkey: Database) -> None:
    kept = redis_usage(valkey.url, half_life=60.0)
    seconds, _ = valkey.client.time()
    valkey.client.hset("dynprio:use", "x", f"8 1 {seconds - 120}")
    kept.add([Run("a", "x", 1.0)])
    _, use = kept.read(time.time())
    assert use["x"] == pytest.approx(3.0, rel=0.05)


def test_only_prefixed_keys_are_touched(valkey: Database) -> None:
    redis_usage(valkey.url, prefix="shop:").add([Run("a", "x", 1.0)])
    names = ("use", "runtimes", "spreads", "usage_changes")
    assert set(valkey.client.keys()) == {f"shop:dynprio:{name}".encode() for name in names}


def test_what_is_kept_reads_as_older_versions_read_and_write_it(valkey: Database) -> None:
    """Workers and leaders of the first version know two hashes, of "seconds count at", and nothing else."""
    kept = redis_usage(valkey.url)
    kept.add([Run("a", "x", 4.0)] * 100)
    for key in ("dynprio:use", "dynprio:runtimes"):
        for value in valkey.client.hvals(key):
            assert [float(each) > 0 for each in value.split()] == [True, True, True]
    valkey.client.hset("dynprio:runtimes", "a", f"800 100 {time.time()}")
    valkey.client.hset("dynprio:runtimes", "old", f"30 10 {time.time()}")
    runtimes, _ = redis_usage(valkey.url).read(time.time())
    assert runtimes == pytest.approx({"a": 8.0, "old": 3.0})
    known = runtimes.expected(PendingTask("1", "a", 0.0))
    assert known is not None
    assert known.mean == pytest.approx(8.0)
    assert known.deviation < 2.0


def test_changes_of_an_older_worker_are_known_in_the_end(valkey: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "CACHE_SECONDS", 0.0)
    kept = redis_usage(valkey.url)
    kept.add([Run("a", "x", 4.0)])
    kept.read(time.time())
    valkey.client.hset("dynprio:runtimes", "old", "30 10 1")
    wait_until(lambda: "old" in kept.read(time.time()).runtimes)


@pytest.fixture
def only_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that has read all once reads the changes from then on, unless it has missed some."""
    monkeypatch.setattr(learned, "CACHE_SECONDS", 0.0)
    monkeypatch.setattr(learned, "WHOLE_READS", 1e-9)


@pytest.mark.usefixtures("only_changes")
def test_who_knows_all_before_asks_for_what_changed(valkey: Database) -> None:
    kept = redis_usage(valkey.url)
    kept.add([Run("a", "x", 4.0)])
    kept.read(time.time())
    for key in ("dynprio:use", "dynprio:runtimes", "dynprio:spreads"):
        valkey.client.delete(key)
    kept.add([Run("b", "y", 1.0)])
    runtimes, use = kept.read(time.time())
    assert runtimes == pytest.approx({"a": 4.0, "b": 1.0})
    assert use == pytest.approx({"x": 4.0, "y": 1.0}, rel=0.05)


@pytest.mark.usefixtures("only_changes")
@pytest.mark.parametrize(
    "mishap", ["too many", "lost", "set back", "another", "no JSON", "not a list", "no field", "no number"]
)
def test_who_missed_a_change_reads_all_again(valkey: Database, mishap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "MAX_CHANGES", 4)
    kept, changes = redis_usage(valkey.url), "dynprio:usage_changes"
    for _ in range(3):
        kept.add([Run("a", "x", 4.0)])
    kept.read(time.time())
    valkey.client.hset("dynprio:runtimes", "unseen", "30 10 1")
    for _ in range(6 if mishap == "too many" else 1):
        kept.add([Run("b", "y", 1.0)])
    wrong = {
        "another": '["7"]',
        "no JSON": "nonsense",
        "not a list": '{"a": 1}',
        "no field": '["4", 1]',
        "no number": '["4", "1", "a", "1 1 1"]',
    }
    if mishap == "lost":
        valkey.client.delete(changes)
    elif mishap == "set back":
        valkey.client.hset(changes, "n", 1)
    elif mishap in wrong:
        valkey.client.hset(changes, "0", wrong[mishap])
    assert kept.read(time.time()).runtimes == pytest.approx({"a": 4.0, "b": 1.0, "unseen": 3.0})


@pytest.mark.usefixtures("only_changes")
def test_what_was_dropped_is_forgotten_by_all(valkey: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "MAX_REMEMBERED", 20)
    reader, writer = redis_usage(valkey.url), redis_usage(valkey.url)
    for start in range(0, 200, 5):
        writer.add([Run("a", f"key {n}", 1.0) for n in range(start, start + 5)])
        known = reader.read(time.time()).use
        assert len(known) <= 20
    assert known.keys() == redis_usage(valkey.url).read(time.time()).use.keys()


HOSTILE = [
    b"",
    b"nonsense",
    b"1 2",
    b"nan 1 1",
    b"inf 1 1",
    b"-1 1 1",
    b"1 nan nan",
    b"1 1 nan",
    b"1 1 1 1 1",
    b"1 0 1",
    b"1e300 1 1",
    b"1 1e-300 1 1",
    b"1 nan 1 1",
    b"\xff\xfe \x00 1",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_values_are_passed_over_and_mended(server: Database, value: bytes) -> None:
    for key in ("dynprio:use", "dynprio:runtimes", "dynprio:spreads"):
        server.client.hset(key, "bad", value)
        server.client.hset(key, b"\xff", b"1 1 1")
    kept = redis_usage(server.url)
    runtimes, use = kept.read(time.time())
    assert (dict(runtimes), dict(use)) == ({}, {})
    kept.add([Run("bad", "bad", 2.0)])
    runtimes, use = redis_usage(server.url).read(time.time())
    assert runtimes == {"bad": 2.0}
    assert use == {"bad": pytest.approx(2.0, rel=0.01)}


def test_both_hashes_stay_bounded_and_keep_the_largest(valkey: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "MAX_REMEMBERED", 200)
    kept = redis_usage(valkey.url)
    kept.add([Run("big", "big", 1e6)] * 3)
    for start in range(0, 2000, 50):
        kept.add([Run(f"n{n}", f"k{n}", 0.1) for n in range(start, start + 50)])
        assert valkey.client.hlen("dynprio:use") <= 200
        assert valkey.client.hlen("dynprio:runtimes") <= 200
    runtimes, use = kept.read(time.time())
    assert "big" in runtimes
    assert "big" in use


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_workers_learn_in_every_pool(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker, pool: str
) -> None:
    project = make_project(valkey.url, TASKS)
    start_worker(project, pool=pool)
    work = project.load().work
    for key in ("x", "y"):
        work.apply_async((0.2,), headers={"dynprio": {"key": key}})
    kept = redis_usage(valkey.url)
    wait_until(lambda: {"x", "y"} <= set(kept.read(time.time())[1]))
    runtimes, use = kept.read(time.time())
    assert 0.19 <= runtimes[work.name] < 60
    assert 0.19 <= use["x"] < 60


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_what_runs_counts_until_it_has_been_learned(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker, pool: str
) -> None:
    project = make_project(valkey.url, TASKS)
    start_worker(project, pool=pool, concurrency=2)
    running = RedisRunning(RedisClient.from_app(make_app(valkey.url)))
    project.load().work.apply_async((3.0,), headers={"dynprio": {"key": "x"}})
    wait_until(lambda: [each.key for each in running.read(time.time())] == ["x"])
    wait_until(lambda: not running.read(time.time()))
    assert redis_usage(valkey.url).read(time.time()).use["x"] > 2.5
    running.close()


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_stopped_worker_sends_what_it_has(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker, pool: str
) -> None:
    project = make_project(valkey.url, TASKS)
    worker = start_worker(project, pool=pool, concurrency=1)
    results = [project.load().work.delay(0.05) for _ in range(10)]
    for result in results:
        result.get(timeout=30)
    worker.kill("SIGTERM")
    value: Any = valkey.client.hget("dynprio:runtimes", project.load().work.name)
    seconds, count, _ = map(float, value.split())
    assert count == pytest.approx(10, rel=0.05)
    assert seconds >= 0.45


def test_tasks_run_while_the_place_of_learning_is_broken(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker
) -> None:
    valkey.client.set("dynprio:use", "not a hash")
    project = make_project(valkey.url, TASKS)
    worker = start_worker(project, pool="threads")
    for _ in range(3):
        project.load().work.delay(0.0).get(timeout=30)
    worker.wait_for_log("learned use could not be sent")
    assert "Traceback" not in worker.logs()


def test_learning_survives_a_restart_of_the_broker(
    start_server: StartServer, make_project: MakeProject, start_worker: StartWorker
) -> None:
    broker = start_server(aof=True)
    project = make_project(broker.url(), TASKS)
    start_worker(project, pool="threads")
    work = project.load().work
    work.apply_async((0.0,), headers={"dynprio": {"key": "before"}}, ignore_result=True)
    with broker.client() as client:
        wait_until(lambda: client.hexists("dynprio:use", "before"))
    broker.restart()
    work.apply_async((0.0,), headers={"dynprio": {"key": "after"}}, ignore_result=True)
    with broker.client() as client:
        wait_until(lambda: client.hexists("dynprio:use", "after"))
        assert client.hexists("dynprio:use", "before")
