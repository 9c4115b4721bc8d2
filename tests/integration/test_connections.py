"""Every kind of connection that kombu's Redis transports offer: tasks move there, and kombu's consumer takes them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
import redis
from celery import Celery

from tests.conftest import MakeProject, StartCelery, StartServer
from tests.nodes import Project
from tests.processes import wait_until
from tests.servers import SentinelServers, make_certificates

#: Tasks are published heavy first; a reprioritizer, which alone has the variable, puts light ones first.
BODY: Final = """
    import os
    from celery_dynprio import DynPrio, Weight, dynprio_task, factor

    @factor
    def lightness(task, context):
        return 1 - task.weight / 10

    policy = 1 * (lightness if "LIGHT_FIRST" in os.environ else Weight())
    app.conf.update(dynprio_policy=policy, dynprio_embedded=False, dynprio_queues=["orders"], dynprio_lease_ttl=2.0)
    app.conf.task_default_queue = "orders"
    dynprio = DynPrio(app)

    @dynprio_task(app=app)
    def work(weight):
        return weight
"""

LIGHT_FIRST: Final = {"LIGHT_FIRST": "1"}

#: What a careful operator's password generator makes, and URLs must quote.
PASSWORD: Final = "p@ss:w/ord#?%&+ =ü"

#: First, middle and last by any policy here; each is published twice.
WEIGHTS: Final = (0, 5, 10)


@dataclass(frozen=True, slots=True)
class Connection:
    """How a broker is reached."""

    server: Mapping[str, Any] = field(default_factory=dict)
    db: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    #: The lists that hold the light tasks after a reprioritizer was there, those of middle weight, and the heavy ones.
    lists: tuple[str, str, str] = ("orders", "orders\x06\x163", "orders\x06\x169")


STEPS: Final = {"priority_steps": [0, 3, 6, 9]}

CONNECTIONS: Final = {
    "database": Connection(db=7),
    "key prefix": Connection(
        options={"global_keyprefix": "shop:"},
        lists=("shop:orders", "shop:orders\x06\x163", "shop:orders\x06\x169"),
    ),
    "separator": Connection(options={"sep": ":"}, lists=("orders", "orders:3", "orders:9")),
    "steps": Connection(options=STEPS, lists=("orders", "orders\x06\x163", "orders\x06\x169")),
    "all options": Connection(
        db=3,
        options={**STEPS, "sep": "/", "global_keyprefix": "{eu}-"},
        lists=("{eu}-orders", "{eu}-orders/3", "{eu}-orders/9"),
    ),
    "password": Connection(server={"password": PASSWORD}),
    "TLS": Connection(server={"tls": True}),
    "TLS and password": Connection(server={"tls": True, "password": PASSWORD}, db=2),
    "Unix socket": Connection(server={"unix_socket": True}, db=4),
    "Unix socket and password": Connection(server={"unix_socket": True, "password": "secret"}),
}


def publish(project: Project) -> None:
    for weight in (*WEIGHTS, *WEIGHTS):
        project.load().work.apply_async((weight,), dynprio={"weight": weight})


def consume(app: Celery, count: int) -> list[int]:
    """The weights of so many tasks, in the order in which kombu's own consumer takes them."""
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue("orders", no_ack=True)
        taken = [queue.get(timeout=10).payload[0][0] for _ in range(count)]
        queue.close()
        return taken


@pytest.mark.parametrize("connection", CONNECTIONS.values(), ids=CONNECTIONS)
def test_tasks_move_to_where_kombus_consumer_takes_them(
    connection: Connection,
    start_server: StartServer,
    make_project: MakeProject,
    start_celery: StartCelery,
    tmp_path: Path,
) -> None:
    options = {**connection.server, **({"tls": make_certificates(tmp_path)} if "tls" in connection.server else {})}
    # The wheel of Valkey is built without TLS.
    server = start_server("redis" if "tls" in options else "valkey", **options)
    url = server.unix_url(connection.db) if server.socket else server.url(connection.db)
    conf = {"broker_transport_options": dict(connection.options)}
    project = make_project(url, BODY, backend="cache+memory://", conf=conf, env=LIGHT_FIRST)
    publish(project)
    light, middle, heavy = connection.lists
    with server.client(connection.db) as client:
        assert [client.llen(key) for key in (light, middle, heavy)] == [2, 2, 2]
        node = start_celery(project, "dynprio", "run", "--once")
        assert node.wait(60) == 0
        assert "orders: read 6 of 6, moved 4, parked 0" in node.logs()
        assert [client.llen(key) for key in (light, middle, heavy)] == [2, 2, 2]
        ours = list(client.scan_iter(match="*dynprio*"))
    prefix = str(connection.options.get("global_keyprefix", ""))
    assert ours
    assert all(key.decode().startswith(f"{prefix}dynprio:") for key in ours)
    assert consume(project.app, 6) == [0, 0, 5, 5, 10, 10]


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[SentinelServers]:
    servers = SentinelServers(tmp_path)
    try:
        servers.start()
        yield servers
    finally:
        servers.stop()


def levels(port: int) -> list[int]:
    """How many tasks are first, in the middle and last on this server."""
    with redis.Redis(port=port, socket_timeout=5) as client:
        return [int(client.llen(key)) for key in CONNECTIONS["password"].lists]


def test_the_loop_goes_on_after_a_failover_and_nothing_is_lost(
    sentinel: SentinelServers, make_project: MakeProject, start_celery: StartCelery
) -> None:
    conf = {"broker_transport_options": sentinel.transport_options}
    project = make_project(sentinel.url, BODY, backend="cache+memory://", conf=conf, env=LIGHT_FIRST)
    publish(project)
    node = start_celery(project, "dynprio", "run", "--interval", "0.1", ready_line="dynprio ready")
    node.wait_for_log("moved 4")
    with sentinel.master.client() as client:
        client.set("written", 1)  # it waits for what this client wrote
        assert client.wait(1, 10_000) == 1  # a failover loses what was not replicated, with any client

    sentinel.kill_master()
    publish(project)

    def moved() -> int:
        return sum(map(int, re.findall(r"moved (\d+)", node.container.logs())))

    wait_until(lambda: moved() >= 8, message="the loop moves tasks on the new master")  # in one tick or in two
    assert levels(sentinel.replica.port) == [4, 4, 4]
    assert node.exit_code is None
    assert "Traceback" not in node.logs()
    assert consume(project.app, 12) == [0] * 4 + [5] * 4 + [10] * 4
    node.kill("SIGTERM")
    assert node.exit_code == 0
