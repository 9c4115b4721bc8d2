"""pytest-celery's nodes over processes of this machine, and the small Celery projects that they run.

pytest-celery ships nodes that are Docker containers. These have the same interface and need no Docker, so clusters and
setups of pytest-celery take them as they are.
"""

from __future__ import annotations

import contextlib
import importlib
import socket
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Final, TypeAlias
from uuid import uuid4

import psutil
from celery import Celery
from celery import __version__ as celery_version
from pytest_celery import CeleryTestBroker, CeleryTestNode, CeleryTestWorker

from tests.processes import Process, ended, wait_until
from tests.servers import RedisServer

#: A line of the log that a Celery worker writes once it consumes.
WORKER_READY: Final = "ready."

#: Settings of every project, unless it says otherwise.
DEFAULTS: Final[Mapping[str, Any]] = {
    "broker_connection_retry_on_startup": True,
    "worker_prefetch_multiplier": 1,
}

TEMPLATE: Final = '''\
"""A project of a test."""

from celery import Celery, _state

app = Celery("{name}", broker="{broker}", backend="{backend}")
app.conf.update({conf!r})

{body}
'''


@dataclass(frozen=True, slots=True)
class Project:
    """A Celery app in a module of its own, for workers to import by ``-A``, and for the test."""

    name: str
    directory: Path
    #: What its processes get beside the environment of the tests.
    env: Mapping[str, str] = field(default_factory=dict)

    def load(self) -> ModuleType:
        """Import it into the test, to publish with: ``project.load().app``, or any task of its body."""
        if self.name not in sys.modules:
            sys.path.insert(0, str(self.directory))
            try:
                importlib.import_module(self.name)
            finally:
                sys.path.remove(str(self.directory))
        return sys.modules[self.name]

    @property
    def app(self) -> Celery:
        return self.load().app

    def forget(self) -> None:
        """Close the app that :meth:`load` imported, and what its results and the other apps hold of it."""
        module = sys.modules.pop(self.name, None)
        if module is None:
            return
        consumer = getattr(module.app.backend, "result_consumer", None)
        if consumer is not None:
            consumer.stop()
            # A result unsubscribes when it is collected: perhaps in a later test, and then waits for a server now gone.
            consumer._pubsub = None
        module.app.close()


def write_project(
    directory: Path,
    broker: str,
    body: str = "",
    *,
    backend: str | None = None,
    conf: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
) -> Project:
    """Write a project whose module holds ``app`` and then ``body``.

    ``conf`` is written by repr; what is not data goes into ``body``. The results go to the broker's database, unless
    ``backend`` says otherwise.
    """
    name = f"proj_{uuid4().hex[:8]}"  # tests of one process must not share an entry in sys.modules
    settings = {**DEFAULTS, **(conf or {})}
    text = TEMPLATE.format(
        name=name, broker=broker, backend=backend or broker, conf=settings, body=textwrap.dedent(body)
    )
    (directory / f"{name}.py").write_text(text)
    return Project(name, directory, env or {})


class ProcessNode(CeleryTestNode):
    """Any command of a project: ``celery -A proj dynprio run``, beat, a script."""

    container: Process

    def __init__(self, container: Process, app: Celery = None) -> None:
        self._container = container
        self._app = app

    @property
    def pid(self) -> int:
        return self._container.pid

    @property
    def exit_code(self) -> int | None:
        """What it exited with, the negative signal if one ended it, or None while it runs."""
        return self._container.exit_code

    def start(self) -> None:
        """Start it without waiting; :meth:`ready` waits."""
        self._container.start()

    def wait(self, deadline: float = 60.0) -> int:
        """Wait until it ends by itself; its exit code."""
        return self._container.wait(deadline)

    def signal(self, signum: int) -> None:
        """Send a signal to the main process only, and do not wait."""
        self._container.signal(signum)

    def kill(self, signal: str | int = "SIGKILL", reload_container: bool = True, *, group: bool | None = None) -> None:  # noqa: ARG002, FBT001, FBT002 - pytest-celery's signature
        """End it and wait until it is gone; see :meth:`tests.processes.Process.kill` for ``group``."""
        if self._container.status == "running":
            self._container.kill(signal, group=group)

    def wait_for_log(self, log: str, message: str = "", timeout: float = 60) -> None:
        """Wait until ``log`` is in what it wrote since its last start."""
        written = self._container.fresh_logs
        wait_until(lambda: log in written(), timeout, message or f"{self.name()} logs {log!r}")

    def children(self, argument: str = "") -> list[psutil.Process]:
        """Its live descendants; given an argument, those whose command line has it."""
        live = []
        for child in psutil.Process(self.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # it may end between the two questions
                if not ended(child) and (not argument or argument in child.cmdline()):
                    live.append(child)
        return live


class WorkerProcess(Process):
    """``celery -A <project> worker`` as pytest-celery's worker container."""

    def __init__(self, project: Project, name: str, pool: str, concurrency: int, args: Sequence[str]) -> None:
        self._node_name = f"{name}@{socket.gethostname()}"
        # A start with mingle waits a second for what other workers say.
        own = ["--without-mingle", f"--pool={pool}", f"--concurrency={concurrency}", f"--hostname={self._node_name}"]
        options = [*own, *args]
        if not any(arg.startswith(("-l", "--loglevel")) for arg in args):
            options.append("--loglevel=INFO")
        command = [sys.executable, "-m", "celery", "-A", project.name, "worker", *options]
        super().__init__(name, command, project.directory, env=project.env, ready_line=WORKER_READY)

    @property
    def node_name(self) -> str:
        """The name that remote control knows it by."""
        return self._node_name

    @staticmethod
    def version() -> str:
        """Version of Celery that it runs."""
        return str(celery_version)

    def worker_name(self) -> str:
        """The part of its name before the host."""
        return self.name


class WorkerNode(ProcessNode, CeleryTestWorker):
    """A plain Celery worker."""

    container: WorkerProcess

    def hostname(self) -> str:
        return self.container.node_name

    def wait_for_answer(self, app: Celery) -> None:
        """Wait until it answers remote control: it may not yet when it says that it is ready or connected."""
        inspect = app.control.inspect([self.hostname()], timeout=1.0, limit=1)
        wait_until(inspect.ping, message=f"{self.hostname()} answers")

    def get_running_processes_info(
        self, columns: list[str] | None = None, filters: Mapping[str, str] | None = None
    ) -> list[dict[str, Any]]:
        """Its processes as dicts of psutil's attributes."""
        processes = [psutil.Process(self.pid), *self.children()]
        found = [process.as_dict(attrs=columns) for process in processes]
        return [row for row in found if all(row.get(name) == value for name, value in (filters or {}).items())]


class BrokerNode(ProcessNode, CeleryTestBroker):
    """A server of :mod:`tests.servers` as pytest-celery's broker."""

    container: RedisServer


Node: TypeAlias = ProcessNode


def worker_node(
    project: Project, name: str = "worker", *, pool: str = "threads", concurrency: int = 2, args: Sequence[str] = ()
) -> WorkerNode:
    """A worker that is not started yet."""
    return WorkerNode(WorkerProcess(project, name, pool, concurrency, args), app=None)


def celery_node(project: Project, *command: str, name: str = "command", ready_line: str | None = None) -> ProcessNode:
    """Any other ``celery -A <project> ...`` that is not started yet."""
    line = [sys.executable, "-m", "celery", "-A", project.name, *command]
    return ProcessNode(Process(name, line, project.directory, env=project.env, ready_line=ready_line))
