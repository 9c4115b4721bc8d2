"""Learned use in a real Redis, measured by real workers."""

from __future__ import annotations

import time
from typing import Any

import pytest

from celery_dynprio.brokers.redis import usage as learned
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.usage import RedisUsage
from celery_dynprio.models import Run
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
    assert set(valkey.client.keys()) == {b"shop:dynprio:use", b"shop:dynprio:runtimes"}


HOSTILE = [
    b"",
    b"nonsense",
    b"1 2",
    b"nan 1 1",
    b"inf 1 1",
    b"-1 1 1",
    b"1 nan nan",
    b"1 1 nan",
    b"1 1 1 1",
    b"\xff\xfe \x00 1",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_values_are_passed_over_and_mended(server: Database, value: bytes) -> None:
    for key in ("dynprio:use", "dynprio:runtimes"):
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
