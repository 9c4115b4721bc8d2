"""The flood of a tenant that nobody knows, with tasks that end only when they are permitted, behind short ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tests.conftest import MakeProject, StartCelery, StartWorker
from tests.processes import wait_until
from tests.servers import Database

BODY = """
import os
import redis
from celery_dynprio import DynPrio, dynprio_task

app.conf.dynprio_interval = 0.2
DynPrio(app)
notes = redis.Redis.from_url(os.environ["NOTES"])

@dynprio_task(app=app, key="tenant")
def job(tenant, waits=False):
    if waits:
        notes.blpop("permits")
    notes.rpush("ran", tenant)
"""

SHORT = 30


@pytest.fixture
def notes(valkey: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis.Redis]:
    monkeypatch.setenv("NOTES", valkey.url)
    yield valkey.client
    valkey.client.rpush("permits", *range(1000))  # so that the worker can end


def test_a_flood_of_an_unknown_tenant_does_not_take_every_slot(
    valkey: Database,
    notes: redis.Redis,
    make_project: MakeProject,
    start_worker: StartWorker,
    start_celery: StartCelery,
) -> None:
    project = make_project(valkey.url, BODY)
    job = project.load().job
    worker = start_worker(project, concurrency=2)
    for tenant in ("acme", "bolt") * 6:
        job.delay(tenant)
    wait_until(lambda: notes.llen("ran") == 12 and notes.hlen("dynprio:use") == 2)
    worker.kill("SIGTERM")
    notes.delete("ran")

    for _ in range(SHORT):
        job.delay("acme")
    for _ in range(60):
        job.delay("newco", waits=True)
    for _ in range(3):
        assert start_celery(project, "dynprio", "run", "--once").wait(60) == 0
    start_worker(project, name="second", concurrency=2)
    wait_until(lambda: notes.lrange("ran", 0, -1) == [b"acme"] * SHORT)
