"""The harness itself, with plain Celery: servers and workers start, die, come back, and leave nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from pytest_celery import CeleryBrokerCluster, CeleryTestSetup, CeleryWorkerCluster

from tests.conftest import MakeProject, StartCelery, StartServer, StartWorker
from tests.nodes import BrokerNode
from tests.processes import ended, wait_until
from tests.servers import Database, Kind, SentinelServers, make_certificates

TASKS = """
    @app.task
    def add(x, y):
        return x + y

    @app.task(acks_late=True, reject_on_worker_lost=True)
    def block(path):
        import pathlib, time
        pathlib.Path(path).touch()
        time.sleep(600)
"""


@pytest.mark.parametrize("pool", ["threads", "prefork", "solo"])
def test_a_worker_runs_a_task(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker, pool: str
) -> None:
    project = make_project(valkey.url, TASKS)
    start_worker(project, pool=pool)
    assert project.load().add.delay(2, 3).get(timeout=30) == 5


def test_a_worker_runs_tasks_on_every_server(
    server: Database, make_project: MakeProject, start_worker: StartWorker
) -> None:
    project = make_project(server.url, TASKS)
    start_worker(project)
    assert project.load().add.delay(2, 3).get(timeout=30) == 5


def test_databases_of_two_tests_are_apart(valkey: Database, redis_server: Database) -> None:
    assert valkey.client.dbsize() == redis_server.client.dbsize() == 0
    valkey.client.set("left", "behind")
    with valkey.server.client(valkey.number + 1) as other:
        assert other.dbsize() == 0


def test_sigkill_of_a_prefork_worker_takes_its_children(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker, tmp_path: Path
) -> None:
    project = make_project(valkey.url, TASKS)
    worker = start_worker(project, pool="prefork", concurrency=2)
    project.load().block.delay(str(tmp_path / "started"))
    wait_until((tmp_path / "started").exists)
    children = worker.children()
    assert len(children) == 2

    worker.kill()

    assert worker.exit_code == -signal.SIGKILL
    assert [child for child in children if not ended(child)] == []


def test_a_killed_worker_comes_back(valkey: Database, make_project: MakeProject, start_worker: StartWorker) -> None:
    project = make_project(valkey.url, TASKS)
    worker = start_worker(project, pool="prefork")
    first = worker.pid
    worker.kill()
    result = project.load().add.delay(1, 1)
    worker.restart()
    assert result.get(timeout=30) == 2
    assert worker.pid != first


def test_sigterm_is_a_warm_shutdown(valkey: Database, make_project: MakeProject, start_worker: StartWorker) -> None:
    worker = start_worker(make_project(valkey.url), pool="prefork")
    worker.kill("SIGTERM")
    assert worker.exit_code == 0
    worker.wait_for_log("Warm shutdown")


@pytest.mark.parametrize("kind", ["valkey", "redis"])
def test_aof_survives_sigkill_of_the_server(
    start_server: StartServer, make_project: MakeProject, start_worker: StartWorker, kind: Kind
) -> None:
    broker = start_server(kind, aof=True)
    project = make_project(broker.url(), TASKS)
    results = [project.load().add.delay(n, n) for n in range(100)]
    broker.kill("SIGKILL")
    broker.restart()
    with broker.client() as client:
        assert client.llen("celery") == 100
    start_worker(project)
    # Asked for one by one: Celery's subscription to results does not always get over the end of the server.
    wait_until(lambda: all(result.ready() for result in results), 60, "all of them have run")
    assert [result.result for result in results] == [2 * n for n in range(100)]


def test_a_worker_survives_a_restart_of_the_server(
    start_server: StartServer, make_project: MakeProject, start_worker: StartWorker
) -> None:
    broker = start_server(aof=True)
    project = make_project(broker.url(), TASKS)
    worker = start_worker(project)
    broker.restart()
    assert project.load().add.delay(20, 22).get(timeout=30) == 42
    assert worker.exit_code is None


def test_password_and_tls(
    start_server: StartServer, make_project: MakeProject, start_worker: StartWorker, tmp_path: Path
) -> None:
    broker = start_server("redis", password="p@ss/word", tls=make_certificates(tmp_path))
    assert broker.url(3).startswith("rediss://")
    project = make_project(broker.url(3), TASKS)
    start_worker(project)
    assert project.load().add.delay(2, 2).get(timeout=30) == 4


def test_sentinel_fails_over(tmp_path: Path, make_project: MakeProject, start_worker: StartWorker) -> None:
    servers = SentinelServers(tmp_path)
    try:
        servers.start()
        options = servers.transport_options
        conf = {"broker_transport_options": options, "result_backend_transport_options": options}
        project = make_project(servers.url, TASKS, conf=conf)
        start_worker(project)
        assert project.load().add.delay(2, 2).get(timeout=30) == 4
        servers.kill_master()
        with servers.replica.client() as client:
            wait_until(lambda: client.info("replication")["role"] == "master", message="the replica is master")
    finally:
        servers.stop()


def test_unix_socket(start_server: StartServer) -> None:
    broker = start_server(unix_socket=True)
    assert broker.socket is not None
    assert broker.socket.is_socket()


def test_other_commands_are_nodes_too(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker, start_celery: StartCelery
) -> None:
    project = make_project(valkey.url)
    worker = start_worker(project, "w1")
    ping = start_celery(project, "inspect", "ping", "--timeout", "30", "-d", worker.hostname())
    assert ping.wait() == 0
    assert f"{worker.hostname()}: OK" in ping.logs()


def test_a_process_that_fails_to_start_says_why(make_project: MakeProject, start_worker: StartWorker) -> None:
    project = make_project("redis://127.0.0.1:1/0", "raise RuntimeError('no such luck')")
    with pytest.raises(AssertionError, match="no such luck"):
        start_worker(project)


def test_nodes_fit_the_setups_of_pytest_celery(
    start_server: StartServer, make_project: MakeProject, start_worker: StartWorker
) -> None:
    broker = BrokerNode(start_server())
    project = make_project(broker.config()["url"], TASKS)
    workers = CeleryWorkerCluster(start_worker(project, "w1"), start_worker(project, "w2"))
    setup = CeleryTestSetup(workers, CeleryBrokerCluster(broker), None, project.app)
    assert len(setup) == 3
    assert setup.ready(control=True)
    assert {node.hostname().split("@")[0] for node in workers} == {"w1", "w2"}


def test_servers_die_with_the_tests(tmp_path: Path) -> None:
    """A pytest that is killed tears nothing down; the kernel does."""
    script = (
        "import pathlib, sys; from tests.servers import RedisServer;"
        "server = RedisServer(pathlib.Path(sys.argv[1])); server.start(); print(server.pid, flush=True);"
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as tests:
        assert tests.stdout is not None
        server = psutil.Process(int(tests.stdout.readline()))
        tests.kill()
    wait_until(lambda: ended(server))
