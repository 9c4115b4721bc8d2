"""How many connections to the broker the add-on takes: a managed Redis may allow few."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import redis

from celery_dynprio.assembly import connect
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.usage import RedisUsage
from celery_dynprio.models import Run
from celery_dynprio.settings import Settings
from celery_dynprio.worker.candidate import LOOK_TIMEOUT, Child, Watch
from celery_dynprio.worker.sender import Sender
from tests.apps import make_app
from tests.conftest import MakeProject, StartServer, StartWorker
from tests.processes import wait_until
from tests.servers import Database


def connections(database: Database) -> int:
    """How many there are to this database, but for the test's own."""
    clients: list[dict[str, str]] = database.client.client_list()
    return sum(each["db"] == str(database.number) for each in clients) - 1


@pytest.fixture
def client(valkey: Database) -> Iterator[RedisClient]:
    made = RedisClient.from_app(make_app(valkey.url))
    yield made
    made.close()


def test_a_client_is_one_connection_that_is_closed_while_it_rests(valkey: Database, client: RedisClient) -> None:
    for _ in range(2):
        client.redis.set("a", 1)
        client.server_time()
        RedisUsage(client).read(time.time())
        assert connections(valkey) == 1
        client.rest()
        wait_until(lambda: connections(valkey) == 0)
    client.close()
    assert connections(valkey) == 0


def test_a_sender_has_one_connection_and_none_when_nothing_comes(valkey: Database, client: RedisClient) -> None:
    sender: Sender[Run] = Sender("runs", lambda: RedisUsage(client), interval=0.0, idle=0.05)
    sender.rest = client.rest
    for number in range(1, 101):
        sender.put(Run(f"task{number}", "", 1.0))
        wait_until(lambda: valkey.client.hlen("dynprio:runtimes") == number)  # noqa: B023 - in this turn
        assert connections(valkey) <= 1
    wait_until(lambda: connections(valkey) == 0)
    sender.put(Run("last", "", 1.0))
    wait_until(lambda: valkey.client.hexists("dynprio:runtimes", "last"))
    sender.stop(60)
    assert (connections(valkey), sender.dropped) == (0, 0)


def test_no_connection_is_left_behind_when_the_broker_restarts(start_server: StartServer) -> None:
    server = start_server()
    client = RedisClient.from_app(make_app(server.url()))
    for _ in range(3):
        server.kill()
        server.start()
        wait_until(lambda: answers(client))
        with server.client() as own:
            assert len(own.client_list()) == 2, "its own and this one"
    client.close()


def answers(client: RedisClient) -> bool:
    try:
        return bool(client.redis.ping())
    except redis.ConnectionError:
        return False


class NoProcess(Child):
    """Is started and does nothing."""

    def __init__(self) -> None:
        super().__init__([])
        self.started = False

    def may_start(self) -> bool:
        return not self.started

    def start(self) -> None:
        self.started = True


def test_a_worker_s_look_has_one_connection_until_its_child_leads(valkey: Database) -> None:
    app = make_app(valkey.url)
    settings = Settings.from_app(app)
    waits, leads = (
        Watch(lambda: connect(app, LOOK_TIMEOUT), settings, owner, NoProcess()) for owner in ("waits", "leads")
    )
    leads.look()
    wait_until(lambda: connections(valkey) == 0)
    for _ in range(3):
        waits.look()
    assert connections(valkey) == 1
    waits.close()
    assert connections(valkey) == 0


def test_a_worker_s_processes_have_one_each_while_they_run_tasks(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker
) -> None:
    body = """
        import time
        from celery_dynprio import DynPrio
        app.conf.update(dynprio_embedded=False)
        DynPrio(app)

        @app.task
        def work():
            time.sleep(0.1)  # so that the other process gets the next one
    """
    project = make_project(valkey.url, body, backend="cache+memory://")
    worker = start_worker(project, pool="prefork", concurrency=2)
    pool = [each.pid for each in worker.children()]
    assert counted(valkey, pool) == Counter()

    seen: list[Counter[int]] = []

    def busy() -> bool:
        project.load().work.delay()
        seen.append(counted(valkey, pool))
        return len(seen[-1]) == len(pool)

    wait_until(busy, message="each process tells what ran")
    assert max(max(each.values(), default=0) for each in seen) == 1
    wait_until(lambda: counted(valkey, pool) == Counter(), message="none is left once all is told")


def counted(database: Database, processes: list[int]) -> Counter[int]:
    """The connections of these processes to the server."""
    found: Counter[int] = Counter()
    for pid in processes:
        peers: list[Any] = psutil.Process(pid).net_connections("tcp")
        number = sum(bool(each.raddr) and each.raddr.port == database.server.port for each in peers)
        found.update({pid: number} if number else {})
    return found
