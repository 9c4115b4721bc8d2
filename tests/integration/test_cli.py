"""The commands against a real broker and real workers."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis

from tests.conftest import MakeProject, StartCelery, StartServer, StartWorker
from tests.nodes import ProcessNode, Project
from tests.processes import wait_until
from tests.servers import Database

BODY = """
    from celery_dynprio import DynPrio, Weight, dynprio_task

    app.conf.update(dynprio_policy=1 * Weight(), dynprio_embedded=False, dynprio_lease_ttl=5.0)
    dynprio = DynPrio(app)

    @dynprio_task(app=app)
    def work(n=0):
        return n
"""

READY = "dynprio ready"


@pytest.fixture
def project(valkey: Database, make_project: MakeProject) -> Project:
    return make_project(valkey.url, BODY)


def publish_misplaced(project: Project, client: redis.Redis, count: int = 10) -> None:
    """Publish heavy tasks, and put them where light ones belong."""
    module = project.load()
    for n in range(count):
        module.work.apply_async((n,), dynprio={"weight": 10})
    with client.pipeline() as pipe:  # all at once: a reprioritizer may run
        for _ in range(count):
            pipe.lmove("celery", "celery\x06\x169", "RIGHT", "LEFT")
        moved = pipe.execute()
    assert None not in moved


def finished(node: ProcessNode) -> tuple[int, str]:
    code = node.wait(60)
    return code, node.logs()


def test_run_puts_pending_tasks_in_order_and_gives_the_lease_back(
    valkey: Database, project: Project, start_celery: StartCelery
) -> None:
    publish_misplaced(project, valkey.client)
    node = start_celery(project, "dynprio", "run", "--interval", "0.1", ready_line=READY)
    wait_until(lambda: valkey.client.llen("celery") == 10)
    wait_until(lambda: valkey.client.exists("dynprio:celery:lease"))  # it ends where the machine stands still
    node.kill("SIGTERM")
    assert node.exit_code == 0
    assert not valkey.client.exists("dynprio:celery:lease")
    assert "celery: read 10 of 10, moved 10, parked 0" in node.logs()


def test_run_ends_well_on_ctrl_c(project: Project, valkey: Database, start_celery: StartCelery) -> None:
    node = start_celery(project, "dynprio", "run", ready_line=READY)
    wait_until(lambda: valkey.client.exists("dynprio:celery:lease"))
    node.kill("SIGINT")
    assert node.exit_code == 0
    assert not valkey.client.exists("dynprio:celery:lease")
    assert "Traceback" not in node.logs()


def test_a_dry_run_reports_and_moves_nothing(valkey: Database, project: Project, start_celery: StartCelery) -> None:
    publish_misplaced(project, valkey.client)
    code, log = finished(start_celery(project, "dynprio", "run", "--dry-run", "--once"))
    assert code == 0
    assert "dry run, read 10 of 10, would move 10" in log
    assert log.count("celery: would move ") == 10
    assert valkey.client.llen("celery\x06\x169") == 10
    assert not valkey.client.exists("dynprio:celery:lease")


def test_once_is_one_tick(valkey: Database, project: Project, start_celery: StartCelery) -> None:
    publish_misplaced(project, valkey.client)
    code, log = finished(start_celery(project, "dynprio", "run", "--once"))
    assert code == 0
    assert log.count("celery: read") == 1
    assert valkey.client.llen("celery") == 10


def test_a_second_one_stands_by_and_takes_over(
    valkey: Database, make_project: MakeProject, start_celery: StartCelery
) -> None:
    # For so long that it does not end where the machine stands still.
    project = make_project(valkey.url, BODY, conf={"dynprio_lease_ttl": 600})
    first = start_celery(project, "dynprio", "run", name="first", ready_line=READY)
    wait_until(lambda: valkey.client.exists("dynprio:celery:lease"))
    holder = valkey.client.get("dynprio:celery:lease")
    second = start_celery(project, "dynprio", "run", "-l", "DEBUG", name="second", ready_line=READY)
    second.wait_for_log("celery: standby")
    assert valkey.client.get("dynprio:celery:lease") == holder
    first.kill("SIGKILL")
    valkey.client.pexpire("dynprio:celery:lease", 1)
    second.wait_for_log("celery: read")


def test_run_survives_a_restart_of_the_broker(
    start_server: StartServer, make_project: MakeProject, start_celery: StartCelery
) -> None:
    broker = start_server(aof=True)
    project = make_project(broker.url(), BODY)
    node = start_celery(project, "dynprio", "run", "--interval", "0.1", ready_line=READY)
    node.wait_for_log("celery: read")
    broker.stop()
    node.wait_for_log("; trying again")
    broker.restart()
    with broker.client() as client:
        publish_misplaced(project, client)
        wait_until(lambda: client.llen("celery") == 10)
    assert node.exit_code is None
    assert "Traceback" not in node.logs()


def test_run_waits_for_a_broker_that_is_not_there_yet(
    start_server: StartServer, make_project: MakeProject, start_celery: StartCelery
) -> None:
    broker = start_server()
    broker.stop()
    node = start_celery(make_project(broker.url(), BODY), "dynprio", "run")
    node.wait_for_log("trying again in")
    broker.restart()
    node.wait_for_log("celery: read")


def test_run_can_be_stopped_while_it_waits_for_the_broker(make_project: MakeProject, start_celery: StartCelery) -> None:
    node = start_celery(make_project("redis://127.0.0.1:1/0", BODY), "dynprio", "run")
    node.wait_for_log("trying again in")
    node.kill("SIGTERM")
    assert node.exit_code == 0


def test_pause_and_resume(valkey: Database, project: Project, start_celery: StartCelery) -> None:
    assert finished(start_celery(project, "dynprio", "pause", name="pause"))[0] == 0
    node = start_celery(project, "dynprio", "run", "--interval", "0.1", "-l", "DEBUG", ready_line=READY)
    node.wait_for_log("celery: paused")
    publish_misplaced(project, valkey.client)
    ticks = node.logs().count("celery: paused")
    wait_until(lambda: node.logs().count("celery: paused") > ticks + 1, message="a tick that began after that")
    assert valkey.client.llen("celery\x06\x169") == 10
    assert "moved" not in node.logs()
    assert finished(start_celery(project, "dynprio", "resume", name="resume"))[0] == 0
    wait_until(lambda: valkey.client.llen("celery") == 10)


def park(client: redis.Redis, what: str, count: int) -> None:
    for n in range(count):
        client.hset(f"dynprio:celery:{what}", f"{what}-{n}", parked_message(client, f"{what}-{n}"))


def parked_message(client: redis.Redis, task_id: str) -> bytes:
    raw: Any = client.lindex("celery", 0)
    message = json.loads(raw)
    message["headers"]["id"] = task_id
    return json.dumps(message).encode()


def test_drain_brings_back_overflow_and_on_demand_what_is_held(
    valkey: Database, project: Project, start_celery: StartCelery
) -> None:
    project.load().work.apply_async((1,), dynprio={"weight": 10})
    park(valkey.client, "overflow", 5)
    park(valkey.client, "held", 2)
    code, log = finished(start_celery(project, "dynprio", "drain", name="drain"))
    assert code == 0
    assert "celery: 5 brought back, 2 still held (--held brings them back)" in log
    assert "paused" in log
    assert valkey.client.exists("dynprio:paused")
    code, log = finished(start_celery(project, "dynprio", "drain", "--held", name="drain-held"))
    assert code == 0
    assert "celery: 2 brought back\n" in log
    assert valkey.client.llen("celery") == 8
    assert not valkey.client.exists("dynprio:celery:overflow", "dynprio:celery:held")


def test_what_was_drained_runs_on_a_worker_without_the_addon(
    valkey: Database, project: Project, make_project: MakeProject, start_celery: StartCelery, start_worker: StartWorker
) -> None:
    work = project.load().work
    results = [work.apply_async((n,), dynprio={"weight": 10}) for n in range(3)]
    for result in results:
        raw: Any = valkey.client.rpop("celery")
        valkey.client.hset("dynprio:celery:overflow", result.id, raw)
    assert finished(start_celery(project, "dynprio", "drain"))[0] == 0
    plain = make_project(
        valkey.url,
        f"""
        @app.task(name={work.name!r})
        def work(n=0):
            return n
        """,
        conf={"broker_transport_options": {"priority_steps": list(range(10))}},
    )
    start_worker(plain)
    assert [result.get(timeout=30) for result in results] == [0, 1, 2]


def test_errors_are_one_line_without_traceback(make_project: MakeProject, start_celery: StartCelery) -> None:
    code, log = finished(start_celery(make_project("redis://127.0.0.1:1/0", BODY), "dynprio", "pause"))
    assert code == 1
    assert log.startswith("Error: broker redis://")
    assert len(log.strip().splitlines()) == 1
