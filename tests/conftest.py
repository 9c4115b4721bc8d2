"""Servers, projects and processes for every test. All that a test starts ends with it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import pytest
from celery import _state, signals
from celery.utils.dispatch import Signal
from hypothesis import settings

from tests.nodes import ProcessNode, Project, WorkerNode, celery_node, worker_node, write_project
from tests.processes import Process
from tests.servers import Database, Kind, RedisServer

# How long an example takes depends on what else this machine does. The same examples each time, so that a run says
# something of the change; --hypothesis-profile=explore looks for new ones.
settings.register_profile("project", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=2000)
settings.load_profile("project")

#: What a test started; its logs are shown if the test fails.
STARTED = pytest.StashKey[list[Process]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" and report.failed:
        for process in item.stash.get(STARTED, []):
            report.sections.append((f"end of the log of {process.name}", process.logs()[-8000:]))
    return report


@pytest.fixture(autouse=True)
def unshared_tasks() -> Iterator[None]:
    """Celery gives each task to every app that is finalized later: not to those of other tests."""
    before = set(_state._on_app_finalizers)
    yield
    _state._on_app_finalizers.intersection_update(before)


@pytest.fixture(autouse=True)
def unshared_apps() -> Iterator[None]:
    """Which app is the default one, and the current one of this thread, is global."""
    before = _state.default_app, _state._tls.current_app
    yield
    _state.default_app, _state._tls.current_app = before


@pytest.fixture(autouse=True)
def unshared_signals() -> Iterator[None]:
    """Celery's signals belong to the process: what a test connected must not hear of the next one's tasks."""
    known = [signal for signal in vars(signals).values() if isinstance(signal, Signal)]
    before = [list(signal.receivers or ()) for signal in known]
    yield
    for signal, receivers in zip(known, before, strict=True):
        if signal.receivers is not None:
            signal.receivers[:] = receivers
            signal.sender_receivers_cache.clear()


@pytest.fixture
def started(request: pytest.FixtureRequest) -> Iterator[list[Process]]:
    """Processes to stop after the test, the last one first."""
    processes: list[Process] = request.node.stash.setdefault(STARTED, [])
    with ExitStack() as stops:  # all of them, also when one fails
        yield processes
        for process in processes:
            stops.callback(process.teardown)


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Kind], RedisServer]]:
    """One server of each kind for the whole session, started when the first test asks for it."""
    servers: dict[Kind, RedisServer] = {}

    def server(kind: Kind) -> RedisServer:
        if kind not in servers:
            made = RedisServer(tmp_path_factory.mktemp(kind), kind)
            made.start()
            servers[kind] = made
        return servers[kind]

    yield server
    for made in servers.values():
        made.teardown()


@pytest.fixture(scope="session")
def database_numbers() -> Iterator[int]:
    return count(1)


@pytest.fixture
def open_database(
    shared_server: Callable[[Kind], RedisServer], database_numbers: Iterator[int]
) -> Iterator[Callable[[Kind], Database]]:
    """Gives an empty database of the session's server of a kind."""
    opened: list[Database] = []

    def open_one(kind: Kind) -> Database:
        server, number = shared_server(kind), next(database_numbers)
        opened.append(Database(server, number, server.client(number)))
        return opened[-1]

    yield open_one
    for database in opened:
        database.client.flushdb()
        database.client.close()


@pytest.fixture
def valkey(open_database: Callable[[Kind], Database]) -> Database:
    """An empty database on the embedded server: Valkey, or Redis 6.2 on Python 3.10."""
    return open_database("valkey")


@pytest.fixture
def redis_server(open_database: Callable[[Kind], Database]) -> Database:
    """An empty database on Debian's Redis."""
    return open_database("redis")


@pytest.fixture(params=["valkey", "redis", "redis62"])
def server(request: pytest.FixtureRequest, open_database: Callable[[Kind], Database]) -> Database:
    """An empty database on each server that we support, the oldest included."""
    return open_database(request.param)


class StartServer(Protocol):
    """Starts a server of the test's own, to restart, kill or configure: the options of RedisServer."""

    def __call__(self, kind: Kind = "valkey", **options: Any) -> RedisServer: ...


@pytest.fixture
def start_server(tmp_path_factory: pytest.TempPathFactory, started: list[Process]) -> StartServer:
    def start(kind: Kind = "valkey", **options: Any) -> RedisServer:
        made = RedisServer(tmp_path_factory.mktemp(kind), kind, **options)
        started.append(made)
        made.start()
        return made

    return start


class MakeProject(Protocol):
    """Writes a project: the arguments of write_project after the directory."""

    def __call__(
        self,
        broker: str,
        body: str = "",
        *,
        backend: str | None = None,
        conf: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Project: ...


@pytest.fixture
def make_project(tmp_path: Path) -> Iterator[MakeProject]:
    made: list[Project] = []

    def make(broker: str, body: str = "", **options: Any) -> Project:
        made.append(write_project(tmp_path, broker, body, **options))
        return made[-1]

    yield make
    for project in made:
        project.forget()


class StartWorker(Protocol):
    """Starts a plain worker of a project and waits until it consumes: the options of worker_node."""

    def __call__(self, project: Project, name: str = "worker", **options: Any) -> WorkerNode: ...


@pytest.fixture
def start_worker(started: list[Process]) -> StartWorker:
    def start(project: Project, name: str = "worker", **options: Any) -> WorkerNode:
        node = worker_node(project, name, **options)
        started.append(node.container)
        node.start()
        node.ready()
        return node

    return start


class StartCelery(Protocol):
    """Starts another ``celery -A project ...`` and waits for its ready line, if one is given."""

    def __call__(
        self, project: Project, *command: str, name: str = "command", ready_line: str | None = None
    ) -> ProcessNode: ...


@pytest.fixture
def start_celery(started: list[Process]) -> StartCelery:
    def start(project: Project, *command: str, name: str = "command", ready_line: str | None = None) -> ProcessNode:
        node = celery_node(project, *command, name=name, ready_line=ready_line)
        started.append(node.container)
        node.start()
        if ready_line is not None:
            node.ready()
        return node

    return start
