"""The checks against real brokers and running workers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from celery import Celery

from celery_dynprio.backlogs.redis_client import RedisClient
from celery_dynprio.checks import Finding
from celery_dynprio.doctor import examine, look
from celery_dynprio.settings import Settings
from tests.apps import make_app
from tests.conftest import MakeProject, StartCelery, StartServer, StartWorker
from tests.processes import wait_until
from tests.servers import Database

#: Seconds in which a worker answers on a busy machine.
ANSWER = 6.0

BODY = """
    from celery_dynprio import DynPrio

    app.conf.update(dynprio_embedded=False)
    dynprio = DynPrio(app)
"""


def good_app(url: str, **options: Any) -> Celery:
    app = make_app(url, **options)
    app.conf.worker_prefetch_multiplier = 1
    return app


def findings(app: Celery, timeout: float = 0.2) -> list[Finding]:
    return examine(app, Settings(queues=("celery",)), timeout)


def troubles(app: Celery) -> list[Finding]:
    return [finding for finding in findings(app) if finding.level != "ok"]


def publish(database: Database, headers: Mapping[str, Any], key: str = "celery") -> None:
    message = {"body": "", "headers": {"id": "1", "task": "t", **headers}, "properties": {}}
    database.client.lpush(key, json.dumps(message))


def test_every_server_that_we_support_tells_what_is_asked(server: Database) -> None:
    client = RedisClient.from_app(make_app(server.url))
    broker = look(client)
    client.close()
    assert tuple(map(int, broker.version.split(".")[:2])) >= (6, 2)
    assert broker.eviction == "noeviction"
    assert broker.skew == 0.0
    assert broker.aof is (server.client.config_get("appendonly")["appendonly"] == "yes")
    assert broker.snapshots == server.client.config_get("save")["save"]


def test_a_broker_with_everything_set_well(start_server: StartServer) -> None:
    assert [finding.check for finding in troubles(good_app(start_server(aof=True).url()))] == ["workers"]


def test_a_broker_that_forgets_and_evicts(start_server: StartServer) -> None:
    server = start_server()
    with server.client() as client:
        client.config_set("save", "")
        client.config_set("maxmemory-policy", "allkeys-lru")
    checks = [finding.check for finding in troubles(good_app(server.url()))]
    assert checks == ["maxmemory-policy", "persistence", "workers"]


def test_messages_in_lists_that_nobody_looks_at(valkey: Database) -> None:
    publish(valkey, {}, "celery\x06\x163")
    app = good_app(valkey.url, steps=(0, 5))
    (finding,) = [finding for finding in troubles(app) if finding.check == "priority_steps"]
    assert finding.level == "error"
    assert "1 messages wait in 'celery\\x06\\x163'" in finding.text


def test_a_producer_whose_clock_runs_ahead(valkey: Database) -> None:
    now, _ = valkey.client.time()
    publish(valkey, {"dynprio": {"at": now + 100}})
    (finding,) = [finding for finding in troubles(good_app(valkey.url)) if finding.check == "producers"]
    assert "published 9" in finding.text or "published 100" in finding.text


def test_a_broker_that_is_away_is_a_finding() -> None:
    found = troubles(good_app("redis://127.0.0.1:1/0"))
    assert [(finding.level, finding.check) for finding in found] == [("error", "broker")]


@pytest.mark.parametrize(("steps", "level"), [(None, "error"), (list(range(10)), "ok")])
def test_a_running_worker_without_the_addon_is_compared(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker, steps: list[int] | None, level: str
) -> None:
    conf = {"broker_transport_options": {"priority_steps": steps}} if steps else {}
    app, worker = good_app(valkey.url), start_worker(make_project(valkey.url, conf=conf))
    worker.wait_for_answer(app)
    found = [finding for finding in findings(app, ANSWER) if finding.check == "priority_steps"]
    assert [(finding.level, finding.text.partition(":")[0]) for finding in found] == [(level, worker.hostname())]


def test_a_worker_of_other_queues_is_not_judged(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker
) -> None:
    app, worker = good_app(valkey.url), start_worker(make_project(valkey.url), args=["-Q", "unmanaged"])
    worker.wait_for_answer(app)
    found = findings(app, ANSWER)
    assert [finding for finding in found if finding.level == "error"] == []


def test_the_command_finds_a_worker_with_the_addon_well(
    start_server: StartServer, make_project: MakeProject, start_worker: StartWorker, start_celery: StartCelery
) -> None:
    project = make_project(start_server(aof=True).url(), BODY)
    worker = start_worker(project)
    worker.wait_for_answer(project.app)
    doctor = start_celery(project, "dynprio", "doctor", "--timeout", str(ANSWER))
    assert doctor.wait() == 0
    assert f"ok      priority_steps: {worker.hostname()}: the same as here" in doctor.logs()
    assert "warning" not in doctor.logs()


def test_the_command_fails_on_an_error(valkey: Database, make_project: MakeProject, start_celery: StartCelery) -> None:
    publish(valkey, {}, "celery\x06\x163")
    project = make_project(valkey.url, BODY, conf={"broker_transport_options": {"priority_steps": [0, 5]}})
    doctor = start_celery(project, "dynprio", "doctor")
    assert doctor.wait() == 1
    assert doctor.logs().startswith("error   priority_steps: 1 messages wait in")


def test_a_worker_warns_once_at_its_start(
    start_server: StartServer, make_project: MakeProject, start_worker: StartWorker
) -> None:
    broker = start_server(aof=True)
    project = make_project(broker.url(), BODY, conf={"worker_prefetch_multiplier": 4})
    worker = start_worker(project)
    worker.wait_for_log("prefetch: this app: worker_prefetch_multiplier = 4")
    broker.restart()
    wait_until(lambda: worker.logs().count("Connected to") >= 2, message="it is connected again")
    worker.wait_for_answer(project.app)
    assert worker.logs().count("worker_prefetch_multiplier = 4") == 1
    assert "persistence: " not in worker.logs()


def test_a_worker_judges_the_prefetch_that_it_was_started_with(
    start_server: StartServer, make_project: MakeProject, start_worker: StartWorker
) -> None:
    project = make_project(start_server(aof=True).url(), BODY)
    worker = start_worker(project, args=["--prefetch-multiplier=8"])
    worker.wait_for_log("worker_prefetch_multiplier = 8")
