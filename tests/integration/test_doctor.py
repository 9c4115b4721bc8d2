"""The checks against real brokers and running workers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import celery
import pytest
from celery import Celery

from celery_dynprio import DynPrio
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.health import server_info
from celery_dynprio.brokers.redis.lease import RedisLease
from celery_dynprio.doctor.gather import examine
from celery_dynprio.operators.workers import Workers
from celery_dynprio.ports.health import Finding
from tests.apps import make_app
from tests.conftest import MakeProject, StartCelery, StartServer, StartWorker
from tests.processes import wait_until
from tests.servers import Database

#: Seconds in which a worker answers on a busy machine.
ANSWER = 6.0

URGENT = """
    import redis
    from celery_dynprio import DynPrio, dynprio_task

    app.conf.update(dynprio_embedded=False, task_ignore_result=True)
    DynPrio(app)
    broker = redis.Redis.from_url("@URL@")

    @dynprio_task(app=app, name="slow")
    def slow():
        broker.rpush("began", "slow")
        broker.blpop("go", 60)

    @dynprio_task(app=app, name="urgent", weight=10, deadline=1)
    def urgent():
        broker.rpush("began", "urgent")
"""

NOBODY = ("leader", "workers")

BODY = """
    from celery_dynprio import DynPrio

    app.conf.update(dynprio_embedded=False)
    dynprio = DynPrio(app)
"""


def good_app(url: str, **options: Any) -> Celery:
    app = make_app(url, **options)
    app.conf.update(worker_prefetch_multiplier=1, task_acks_late=True)
    return app


def findings(app: Celery, timeout: float = 0.2) -> list[Finding]:
    return examine(DynPrio.of(app) or DynPrio(app), timeout)


def troubles(app: Celery, check: str = "") -> list[Finding]:
    """What is not well; nobody leads and no worker answers in most of these tests."""
    unwell = [finding for finding in findings(app) if finding.severity != "ok"]
    return [finding for finding in unwell if (finding.check == check if check else finding.check not in NOBODY)]


def publish(database: Database, headers: Mapping[str, Any], key: str = "celery") -> None:
    message = {"body": "", "headers": {"id": "1", "task": "t", **headers}, "properties": {}}
    database.client.lpush(key, json.dumps(message))


def test_every_server_that_we_support_tells_what_is_asked(server: Database) -> None:
    client = RedisClient.from_app(make_app(server.url))
    broker = server_info(client)
    client.close()
    assert broker.version
    assert tuple(map(int, broker.version.split(".")[:2])) >= (6, 2)
    assert broker.eviction == "noeviction"
    assert broker.skew == 0.0
    assert broker.aof is (server.client.config_get("appendonly")["appendonly"] == "yes")
    assert broker.snapshots == server.client.config_get("save")["save"]
    assert (broker.primary, broker.replicas, broker.min_replicas) == (True, 0, 0)
    assert broker.memory > 0
    assert broker.maxclients
    assert broker.maxclients == int(server.client.config_get("maxclients")["maxclients"] or 0)
    assert 0 < broker.connections < broker.maxclients


def test_a_broker_with_everything_set_well(start_server: StartServer) -> None:
    app = good_app(start_server(aof=True).url())
    assert troubles(app) == []
    assert [
        (each.severity, each.check) for each in findings(app) if each.check in NOBODY and each.severity != "ok"
    ] == [
        ("warning", "workers"),
        ("warning", "leader"),
    ]


def test_a_broker_that_forgets_and_evicts(start_server: StartServer) -> None:
    server = start_server()
    with server.client() as client:
        client.config_set("save", "")
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("maxmemory", 1_000_000_000)
    checks = [finding.check for finding in troubles(good_app(server.url()))]
    assert checks == ["maxmemory-policy", "persistence"]


def test_a_broker_that_is_full(start_server: StartServer) -> None:
    server = start_server(aof=True)
    with server.client() as client:
        client.config_set("maxmemory", 1)
        client.config_set("maxmemory-policy", "noeviction")
    (finding,) = troubles(good_app(server.url()))
    assert (finding.severity, finding.check) == ("error", "maxmemory")


def test_a_primary_that_does_not_wait_for_its_replica(start_server: StartServer) -> None:
    server, replica = start_server(aof=True), start_server(aof=True)
    with server.client() as client, replica.client() as other:
        other.replicaof("127.0.0.1", str(server.port))
        wait_until(lambda: client.info("replication")["connected_slaves"] == 1)
        (finding,) = troubles(good_app(server.url()))
        assert (finding.severity, finding.check) == ("warning", "replication")
        client.config_set("min-replicas-max-lag", 600)
        client.config_set("min-replicas-to-write", 1)
        wait_until(lambda: client.info("replication")["min_slaves_good_slaves"] == 1)
        assert troubles(good_app(server.url())) == []
        (finding,) = troubles(good_app(replica.url()))
        assert (finding.severity, finding.check) == ("error", "replication")


def test_a_user_who_may_not_ask_is_told_what_was_not_checked(start_server: StartServer) -> None:
    server = start_server()
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "svc", "on", ">pw", "~*", "&*", "+@all", "-@dangerous")
    (finding,) = troubles(good_app(f"redis://svc:pw@127.0.0.1:{server.port}/0"))
    assert (finding.severity, finding.check) == ("warning", "rights")


def test_a_queue_that_nothing_is_sent_to(valkey: Database) -> None:
    app = good_app(valkey.url)
    app.conf.task_routes = {"mails.*": {"queue": "mails"}, "x": "other"}

    def problems(*queues: str) -> list[str]:
        app.conf.dynprio_queues = queues
        found = examine(DynPrio(app), 0.2)
        return [finding.text.partition(": ")[2] for finding in found if finding.check == "queues"]

    assert problems("celery", "mails", "other") == []
    assert problems("mail") == ["did you mean 'mails'?"]
    routers: list[Any] = [lambda *_, **__: None, "proj.routers.route", ("mails.*", {"queue": "mails"}), 7]
    for router in routers:
        app.conf.task_routes = [router]
        assert problems("mail") == []


def test_who_leads_and_that_nobody_does(valkey: Database) -> None:
    app = good_app(valkey.url)
    publish(valkey, {})
    (finding,) = troubles(app, "leader")
    assert finding.severity == "error"
    client = RedisClient.from_app(app)
    RedisLease(client, "celery", "ops:1:x").acquire()
    client.close()
    (finding,) = [finding for finding in findings(app) if finding.check == "leader"]
    assert (finding.severity, finding.text) == ("ok", "celery: ops:1:x (dedicated)")


def test_who_paused_is_named(valkey: Database) -> None:
    app = good_app(valkey.url)
    dynprio = DynPrio(app)
    with dynprio.operations(by="ada@ops1") as operations:
        operations.pause("rush")
        operations.hold(["x"], "later")
    (finding,) = troubles(app, "moves")
    assert "paused by ada@ops1 since 20" in finding.text
    assert "(rush)" in finding.text
    dynprio.resume()
    assert troubles(app, "moves") == []


def test_messages_that_are_left_alone_and_llen(valkey: Database) -> None:
    valkey.client.lpush("celery", "{", "[]", "{}")
    publish(valkey, {}, "celery\x06\x163")
    app = good_app(valkey.url)
    (one, other) = troubles(app, "left alone")
    assert {one.text.partition(" messages")[0], other.text.partition(" messages")[0]} == {
        "celery: 1 of the 4",
        "celery: 2 of the 4",
    }
    (waiting,) = [finding for finding in findings(app) if finding.check == "waiting"]
    assert waiting.text.startswith("celery: 4 tasks, of which LLEN celery shows 3: ")


def test_messages_in_lists_that_nobody_looks_at(valkey: Database) -> None:
    publish(valkey, {}, "celery\x06\x163")
    app = good_app(valkey.url, steps=(0, 5))
    (finding,) = troubles(app, "priority_steps")
    assert finding.severity == "error"
    assert "1 messages wait in 'celery\\x06\\x163'" in finding.text


def test_a_producer_whose_clock_runs_ahead(valkey: Database) -> None:
    now, _ = valkey.client.time()
    publish(valkey, {"dynprio": {"at": now + 100}})
    (finding,) = troubles(good_app(valkey.url), "producers")
    assert "published 9" in finding.text or "published 100" in finding.text


def test_a_broker_that_is_away_is_a_finding() -> None:
    found = troubles(good_app("redis://127.0.0.1:1/0"))
    assert [(finding.severity, finding.check) for finding in found] == [("error", "broker")]


@pytest.mark.parametrize(("steps", "level"), [(None, "error"), (list(range(10)), "ok")])
def test_a_running_worker_without_the_addon_is_compared(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker, steps: list[int] | None, level: str
) -> None:
    conf = {"broker_transport_options": {"priority_steps": steps}} if steps else {}
    app, worker = good_app(valkey.url), start_worker(make_project(valkey.url, conf=conf))
    worker.wait_for_answer(app)
    found = [finding for finding in findings(app, ANSWER) if finding.check == "priority_steps"]
    assert [(finding.severity, finding.whose) for finding in found] == [(level, worker.hostname())]


def test_a_worker_of_other_queues_is_not_judged(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker
) -> None:
    app, worker = good_app(valkey.url), start_worker(make_project(valkey.url), args=["-Q", "unmanaged"])
    worker.wait_for_answer(app)
    found = findings(app, ANSWER)
    assert [finding for finding in found if finding.severity == "error"] == []


def test_a_worker_of_two_queues_without_the_addon(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker
) -> None:
    app, worker = good_app(valkey.url), start_worker(make_project(valkey.url), args=["-Q", "celery,unmanaged"])
    worker.wait_for_answer(app)
    (finding,) = [finding for finding in findings(app, ANSWER) if finding.check == "turns"]
    assert (finding.severity, finding.whose) == ("warning", worker.hostname())
    assert "the unmanaged unmanaged as well" in finding.text


def test_the_command_says_in_ten_lines_that_all_is_well(
    start_server: StartServer, make_project: MakeProject, start_worker: StartWorker, start_celery: StartCelery
) -> None:
    project = make_project(start_server(aof=True).url(), BODY, conf={"task_acks_late": True})
    worker = start_worker(project)
    worker.wait_for_answer(project.app)
    start_celery(project, "dynprio", "run", name="run", ready_line="dynprio ready")
    with project.load().dynprio.operations() as operations:
        wait_until(lambda: operations.stats(Workers()).queues[0].leader)
    doctor = start_celery(project, "dynprio", "doctor", "--timeout", str(ANSWER))
    assert doctor.wait() == 0
    lines = doctor.logs().strip().splitlines()
    assert len(lines) <= 10
    assert f"ok      settings: this app, {worker.hostname()}: " in lines[0]
    assert "ok      queues: celery: 1 worker" in lines
    assert lines[-1] == "Healthy: nothing to do."
    assert {line.split()[0] for line in lines[:-1]} == {"ok"}


def test_the_command_fails_on_an_error(valkey: Database, make_project: MakeProject, start_celery: StartCelery) -> None:
    publish(valkey, {}, "celery\x06\x163")
    project = make_project(valkey.url, BODY, conf={"broker_transport_options": {"priority_steps": [0, 5]}})
    doctor = start_celery(project, "dynprio", "doctor")
    assert doctor.wait() == 1
    assert doctor.logs().startswith("error   priority_steps: 1 messages wait in")
    doctor = start_celery(project, "dynprio", "doctor", "--json", name="json")
    assert doctor.wait() == 1
    said = json.loads(doctor.logs())
    assert said["healthy"] is False
    assert ("error", "priority_steps") in [(finding["level"], finding["check"]) for finding in said["findings"]]


def test_a_worker_warns_once_at_its_start(
    start_server: StartServer, make_project: MakeProject, start_worker: StartWorker
) -> None:
    broker = start_server(aof=True)
    project = make_project(broker.url(), BODY, conf={"worker_prefetch_multiplier": 4, "dynprio_queues": ["celrey"]})
    worker = start_worker(project)
    worker.wait_for_log("prefetch: worker_prefetch_multiplier = 4")
    broker.restart()
    wait_until(lambda: worker.logs().count("Connected to") >= 2, message="it is connected again")
    worker.wait_for_answer(project.app)
    assert worker.logs().count("worker_prefetch_multiplier = 4") == 1
    assert "persistence: " not in worker.logs()
    assert "dynprio_queues names 'celrey'" in worker.logs()
    assert "did you mean 'celery'?" in worker.logs()


def test_a_worker_judges_the_prefetch_that_it_was_started_with(
    start_server: StartServer, make_project: MakeProject, start_worker: StartWorker
) -> None:
    project = make_project(start_server(aof=True).url(), BODY)
    worker = start_worker(project, args=["--prefetch-multiplier=8"])
    worker.wait_for_log("worker_prefetch_multiplier = 8")


@pytest.mark.parametrize(
    "conf",
    [
        pytest.param(
            {"worker_disable_prefetch": True},
            marks=pytest.mark.skipif(celery.VERSION < (5, 6), reason="Celery 5.5 takes the setting and does nothing"),
        ),
        {"worker_prefetch_multiplier": 1, "task_acks_late": True},
    ],
)
def test_an_urgent_task_starts_before_those_that_a_worker_would_have_reserved(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker, conf: Mapping[str, Any]
) -> None:
    project = make_project(valkey.url, URGENT.replace("@URL@", valkey.url), conf=conf)
    module, worker = project.load(), start_worker(project, concurrency=1)

    def began() -> list[str]:
        names: Any = valkey.client.lrange("began", 0, -1)
        return [name.decode() for name in names]

    for _ in range(3):
        module.slow.delay()
    wait_until(lambda: began() == ["slow"])
    worker.wait_for_answer(project.app)  # so that it had the time to reserve another
    module.urgent.delay()
    valkey.client.rpush("go", *"1234")
    wait_until(lambda: len(began()) == 4, 60)
    assert began() == ["slow", "urgent", "slow", "slow"]
