"""The candidate in real workers: as long as one of them lives, pending tasks move, and nothing is left behind."""

from __future__ import annotations

import importlib.util
import signal
import sys
from collections.abc import Callable

import psutil
import pytest
import redis

from tests.conftest import MakeProject, StartCelery, StartServer, StartWorker
from tests.nodes import Project, WorkerNode
from tests.processes import Process, ended, wait_until
from tests.servers import Database

BODY = """
    from celery_dynprio import DynPrio, Weight, dynprio_task

    app.conf.update(dynprio_policy=1 * Weight(), dynprio_lease_ttl=3.0, dynprio_interval=0.2)
    dynprio = DynPrio(app)

    @dynprio_task(app=app)
    def work(n=0):
        return n
"""

LEASE = "dynprio:celery:lease"

POOLS = ["prefork", "threads", "solo"] + [pool for pool in ("gevent", "eventlet") if importlib.util.find_spec(pool)]


@pytest.fixture
def project(valkey: Database, make_project: MakeProject) -> Project:
    return make_project(valkey.url, BODY)


def children(worker: WorkerNode) -> list[psutil.Process]:
    """The reprioritizers that the worker started."""
    return worker.children("--embedded")


def the_child(worker: WorkerNode) -> psutil.Process:
    wait_until(lambda: len(children(worker)) == 1, message="the worker has one reprioritizer")
    return children(worker)[0]


def another_child(worker: WorkerNode, than: psutil.Process) -> Callable[[], bool]:
    return lambda: [child.pid for child in children(worker) if child.pid != than.pid] != []


def gone(process: psutil.Process) -> Callable[[], bool]:
    return lambda: ended(process)


def holder(client: redis.Redis) -> bytes:
    value = client.get(LEASE)
    assert value is None or isinstance(value, bytes)
    return value or b""


@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_of_any_pool_keeps_the_order_and_ends_cleanly(
    valkey: Database, project: Project, start_worker: StartWorker, pool: str
) -> None:
    worker = start_worker(project, pool=pool, args=["-Q", "nothing-here"])
    child = the_child(worker)
    wait_until(lambda: b":embedded:" in holder(valkey.client))
    project.load().work.apply_async((1,), dynprio={"weight": 10})
    valkey.client.lmove("celery", "celery\x06\x169")
    wait_until(lambda: valkey.client.llen("celery") == 1, message="the child moves it back to where it belongs")

    worker.kill("SIGTERM")

    assert worker.exit_code == 0
    assert gone(child)()
    assert holder(valkey.client) == b"", "the lease was given back"
    assert "Traceback" not in worker.logs()


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_the_child_dies_with_a_worker_that_is_killed(
    valkey: Database, project: Project, start_worker: StartWorker, pool: str
) -> None:
    worker = start_worker(project, pool=pool)
    child = the_child(worker)
    wait_until(lambda: holder(valkey.client))
    worker.kill("SIGKILL", group=False)
    wait_until(gone(child), message="the child notices")
    wait_until(lambda: not holder(valkey.client))


def test_a_killed_child_is_reaped_and_another_one_comes(
    valkey: Database, project: Project, start_worker: StartWorker
) -> None:
    worker = start_worker(project, pool="prefork")
    child = the_child(worker)
    child.kill()
    wait_until(another_child(worker, than=child), message="another child")
    wait_until(lambda: not psutil.pid_exists(child.pid), message="no zombie is left")


def test_another_worker_takes_over(valkey: Database, project: Project, start_worker: StartWorker) -> None:
    first = start_worker(project, "first")
    the_child(first)
    wait_until(lambda: b"first@" in holder(valkey.client))
    second = start_worker(project, "second")
    first.kill("SIGKILL")
    wait_until(lambda: b"second@" in holder(valkey.client))
    the_child(second)


def test_only_one_of_two_workers_starts_a_child(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker
) -> None:
    # A child that is slow to start, or waits for a processor, is not to lose its lease.
    project = make_project(valkey.url, BODY.replace("ttl=3.0", "ttl=60.0"))
    first = start_worker(project, "first", args=["-l", "DEBUG"])
    child = the_child(first)
    first.wait_for_log("celery: read")
    owner = holder(valkey.client)
    second = start_worker(project, "second")
    valkey.client.hset("dynprio:celery:overflow", "1", "nobody can bring this back: so the queue is read all the time")
    reads = first.logs().count("celery: read")
    wait_until(lambda: first.logs().count("celery: read") > reads + 40, message="longer than until a first look")
    assert holder(valkey.client) == owner
    assert children(second) == []
    assert child.is_running()


def test_a_dedicated_process_takes_over_and_the_child_leaves(
    valkey: Database, project: Project, start_worker: StartWorker, start_celery: StartCelery
) -> None:
    worker = start_worker(project)
    child = the_child(worker)
    dedicated = start_celery(project, "dynprio", "run", ready_line="dynprio ready")
    wait_until(gone(child), message="the child has no queue left")
    wait_until(lambda: b":dedicated:" in holder(valkey.client))
    dedicated.kill("SIGTERM")
    the_child(worker)
    wait_until(lambda: b":embedded:" in holder(valkey.client))


def test_worker_and_child_survive_a_restart_of_the_broker(
    start_server: StartServer, make_project: MakeProject, start_worker: StartWorker
) -> None:
    broker = start_server(aof=True)
    project = make_project(broker.url(), BODY)
    worker = start_worker(project)
    the_child(worker)
    broker.stop()
    broker.restart()
    with broker.client() as client:
        wait_until(lambda: b":embedded:" in holder(client), deadline=60)
    assert project.load().work.delay(5).get(timeout=120) == 5
    child = the_child(worker)
    child.kill()
    wait_until(another_child(worker, than=child), deadline=60, message="its timer outlived the lost connection")


@pytest.mark.parametrize("embedded", [True, False])
def test_it_can_be_turned_off(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker, *, embedded: bool
) -> None:
    at_once = f"{BODY}\n    from celery_dynprio.worker import candidate\n    candidate.FIRST_LOOK = 0.0\n"
    project = make_project(valkey.url, at_once, conf={"dynprio_embedded": embedded})
    worker = start_worker(project)
    assert project.load().work.delay(5).get(timeout=60) == 5
    if embedded:
        worker.wait_for_log("embedded reprioritizer started")
    worker.kill("SIGTERM")
    assert ("embedded reprioritizer started" in worker.logs()) is embedded
    assert valkey.client.exists("dynprio:celery:fence") == embedded, "whether it ever looked for a lease"


@pytest.mark.parametrize("how", ["by import", "as a script", "as a module"])
def test_a_worker_that_a_script_starts_finds_its_app_again(
    valkey: Database, project: Project, started: list[Process], how: str
) -> None:
    work = "app.worker_main(['worker', '--pool=solo', '-l', 'INFO'])"
    with (project.directory / f"{project.name}.py").open("a") as module:
        module.write(f"\nif __name__ == '__main__':\n    {work}\n")
    arguments = {
        "by import": ["-c", f"from {project.name} import app; {work}"],
        "as a script": [f"{project.name}.py"],
        "as a module": ["-m", project.name],
    }
    process = Process("script", [sys.executable, *arguments[how]], project.directory, ready_line="ready.")
    started.append(process)
    process.start()
    process.ready()
    wait_until(lambda: "dynprio ready" in process.logs())
    wait_until(lambda: holder(valkey.client))
    assert f"-A {project.name}:app" in " ".join(psutil.Process(process.pid).children()[0].cmdline())
    process.kill(signal.SIGTERM)
    assert process.exit_code == 0


def test_an_app_that_no_module_has_is_told_what_to_run(
    valkey: Database, project: Project, started: list[Process]
) -> None:
    script = f"""if True:
        import sys, {project.name}
        app = sys.modules.pop("{project.name}").app
        app.worker_main(["worker", "--pool=solo"])
    """
    process = Process("script", [sys.executable, "-c", script], project.directory)
    started.append(process)
    process.start()
    wait_until(lambda: "run `celery -A proj dynprio run`" in process.logs())
    assert not valkey.client.exists(LEASE)
