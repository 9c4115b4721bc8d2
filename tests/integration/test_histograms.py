"""Histograms in a real Redis, counted by real workers."""

from __future__ import annotations

from typing import Any

import pytest

from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.histograms import KEPT, RedisHistograms
from celery_dynprio.models import Run
from celery_dynprio.ports.histograms import ROW, SeriesKey
from tests.apps import make_app
from tests.conftest import MakeProject, StartWorker
from tests.processes import wait_until
from tests.servers import Database

KEY = "dynprio:histograms"

BODY = """
    from celery_dynprio import DynPrio, dynprio_task
    from celery_dynprio.worker import sender

    sender.LAST_SEND_TIMEOUT = 60.0
    DynPrio(app)

    @dynprio_task(app=app, deadline=3600)
    def work(seconds):
        import time
        time.sleep(seconds)
"""


def histograms(url: str, **options: Any) -> RedisHistograms:
    return RedisHistograms(RedisClient.from_app(make_app(url)), **options)


def test_what_is_added_is_read(server: Database) -> None:
    kept = histograms(server.url)
    kept.add([Run("a", "x", 2.0, 3, 0.5, in_time=True)] * 2 + [Run("bé b", "", 1e-9)])
    kept.add([Run("a", "y", 4.0, 3, 700.0, in_time=False)])
    found = histograms(server.url).read()
    assert set(found) == {SeriesKey("a", 3), SeriesKey("bé b", None)}
    series = found[SeriesKey("a", 3)]
    assert (series.runs.total, series.waits.total, series.deadlines) == (8.0, 701.0, [2.0, 1.0])
    assert sum(series.runs.counts) == sum(series.waits.counts) == 3
    assert 0 < server.client.ttl(KEY) <= KEPT


def test_a_full_hash_counts_the_rest_together(valkey: Database) -> None:
    kept = histograms(valkey.url, most=3)
    for number in range(40):
        kept.add([Run(f"task {number}", "", 1.0, number % 2)])
    found = kept.read()
    assert set(found) - {SeriesKey("other", 0), SeriesKey("other", 1)} == {
        SeriesKey("task 0", 0),
        SeriesKey("task 1", 1),
        SeriesKey("task 2", 0),
    }
    assert sum(sum(series.runs.counts) for series in found.values()) == 40


@pytest.mark.parametrize(
    "value", [b"", b"nonsense", b"1 2", b" ".join([b"nan"] * ROW), b" ".join([b"-1"] * ROW), b"\xff"]
)
def test_hostile_values_are_passed_over_and_mended(server: Database, value: bytes) -> None:
    for field in ("3 a", "x a", "a", b"\xff", ""):
        server.client.hset(KEY, field, value)
    kept = histograms(server.url)
    server.client.hset(KEY, "9" * 5000 + " a", " ".join(["1"] * ROW))
    assert kept.read() == {}
    kept.add([Run("a", "x", 2.0, 3)])
    assert {key: series.runs.total for key, series in kept.read().items()} == {SeriesKey("a", 3): 2.0}


@pytest.mark.parametrize("learn", [True, False])
def test_workers_count_if_there_are_metrics(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker, *, learn: bool
) -> None:
    conf = {"dynprio_metrics_port": 1, "dynprio_learn": learn, "dynprio_embedded": False}
    project = make_project(valkey.url, BODY, conf=conf)
    work = project.load().work
    work.delay(0.2)
    work.apply_async((0.0,), countdown=1)
    start_worker(project)
    kept = histograms(valkey.url)
    wait_until(lambda: sum(sum(series.runs.counts) for series in kept.read().values()) == 2)
    found = kept.read()
    assert {key.task for key in found} == {work.name}
    assert all(key.level is not None for key in found)
    assert 0.19 <= sum(series.runs.total for series in found.values()) < 60
    assert sum(sum(series.waits.counts) for series in found.values()) == 1, "an eta is no wait for a worker"
    assert sum(series.deadlines[0] for series in found.values()) == 2
    assert valkey.client.exists("dynprio:use") == learn


def test_without_metrics_nothing_is_counted(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker
) -> None:
    project = make_project(valkey.url, BODY, conf={"dynprio_embedded": False})
    worker = start_worker(project)
    project.load().work.delay(0.0).get(timeout=30)
    worker.kill("SIGTERM")
    assert valkey.client.exists("dynprio:use")
    assert not valkey.client.exists(KEY)
