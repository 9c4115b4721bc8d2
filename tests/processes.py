"""Real processes for tests: they have a log, a process group, and die with the tests whatever happens to pytest."""

from __future__ import annotations

import os
import random
import signal as signals
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Final

import psutil
from pytest_celery import CeleryTestContainer

#: Seconds between two looks at a condition.
POLL: Final = 0.02

#: Below Linux's ephemeral ports (32768 and up): a client that reconnects to a stopped server cannot get the server's
#: own port as its local one, and so neither takes it away nor connects to itself.
PORTS: Final = range(20_000, 30_000)

#: Of its own: tests seed Python's, and two processes with one seed would draw the same ports.
DRAW: Final = random.SystemRandom()

#: Ends a process with the one that started it, even if that is killed; then becomes the command. In a process of its
#: own and not a preexec_fn, which Python 3.12 warns of when threads run.
LAUNCHER: Final = (
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGKILL);"
    "os.getppid() == int(sys.argv[1]) or sys.exit('parent is gone'); os.execvp(sys.argv[2], sys.argv[2:])"
)


def wait_until(predicate: Callable[[], object], deadline: float = 60.0, message: str = "") -> None:
    """Wait until ``predicate()`` is true; fail with ``message`` after ``deadline`` seconds."""
    end = time.monotonic() + deadline
    while not predicate():
        late = time.monotonic() > end
        # This process may have stood still meanwhile: whatever it waits for gets a last look.
        if late and not predicate():
            raise AssertionError(f"not within {deadline:g} s: {message or predicate}")
        time.sleep(POLL)


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nothing listens on now."""
    while True:
        port = DRAW.choice(PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Process(CeleryTestContainer):
    """What pytest-celery calls a container, as a process group of this machine.

    ``ready_line`` is what its log says once it does its job; None if it is ready as soon as it runs.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        directory: Path,
        *,
        env: Mapping[str, str] | None = None,
        ready_line: str | None = None,
    ) -> None:
        self._name = name
        self.command_line = list(command)
        self.directory = directory
        self.log_file = directory / f"{name}.log"
        self.ready_line = ready_line
        self._env = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
        self._popen: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def name(self) -> str:
        return self._name

    @property
    def id(self) -> str:
        return f"{self._name}-{self.pid}"

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def popen(self) -> subprocess.Popen[bytes]:
        """The process that was started last."""
        if self._popen is None:
            raise AssertionError(f"{self._name} was never started")
        return self._popen

    @property
    def status(self) -> str:
        return "running" if self._popen is not None and self._popen.poll() is None else "exited"

    @property
    def exit_code(self) -> int | None:
        """What it exited with, the negative signal if one ended it, or None while it runs."""
        return self.popen.poll()

    def start(self) -> None:
        """Start it in a process group of its own; its log goes on where an earlier run ended."""
        self._log_start = self.log_file.stat().st_size if self.log_file.exists() else 0
        launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid())]
        with self.log_file.open("ab") as log:
            self._popen = subprocess.Popen(
                [*launcher, *self.command_line],
                cwd=self.directory,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def logs(self) -> str:
        """Everything it ever wrote, also before a restart."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def fresh_logs(self) -> str:
        """What it wrote since it was started last."""
        with self.log_file.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def is_ready(self) -> bool:
        """Whether it does its job by now."""
        return self.ready_line is None or self.ready_line in self.fresh_logs()

    def ready(self, deadline: float = 60.0) -> bool:
        """Wait until it is ready; fail with its log if it ends before."""

        def settled() -> bool:
            return self.status == "exited" or self.is_ready()

        wait_until(settled, deadline, f"{self._name} is ready")
        assert self.status == "running", f"{self._name} ended with {self.exit_code}:\n{self.fresh_logs()}"
        return True

    def wait(self, deadline: float = 60.0) -> int:
        """Wait until it ends by itself; its exit code.

        A pool process that a worker tells to stop in the moment in which it hands over its last result may wait for
        30 s until that counts as received (``billiard.pool.Worker._ensure_messages_consumed``), with Celery alone too.
        """
        wait_until(lambda: self.status == "exited", deadline, f"{self._name} ends; it wrote:\n{self.logs()[-3000:]}")
        return self.popen.returncode

    def signal(self, signum: int) -> None:
        """Send a signal to the main process only, and do not wait."""
        if self.status == "running":
            self.popen.send_signal(signum)

    def kill(self, signal: str | int | None = "SIGKILL", *, group: bool | None = None) -> None:
        """End it by a signal and wait until it is gone.

        SIGKILL takes its children with it, as the end of a machine or a container does, unless ``group`` says
        otherwise; any other signal goes to the main process alone, which then ends its children itself.
        """
        signum = _signal_number(signal)
        family = _family(self.pid)
        if group if group is not None else signum == SIGKILL:
            _signal_all(family, signum)
        else:
            self.signal(signum)
            family = []
        self.wait()
        psutil.wait_procs(family, timeout=10)

    def stop(self) -> None:
        """End it as an operator would; whatever is left of its group is killed."""
        if self._popen is None:
            return
        family = _family(self.pid)
        self.signal(SIGTERM)
        try:
            self.wait(deadline=20)
        except AssertionError:
            self.kill("SIGKILL")
        _signal_all(family, SIGKILL)
        psutil.wait_procs(family, timeout=10)

    def restart(self, timeout: float = 60.0) -> None:
        """Stop it if it runs, start it again and wait until it is ready."""
        self.stop()
        self.start()
        self.ready(timeout)

    def reload(self) -> None:
        """Do nothing: a process has no cached state as a container has."""

    def teardown(self) -> None:
        """End it at once, with all its children: a test that wants a graceful end asks for one."""
        if self._popen is not None:
            self.kill(SIGKILL)


def ended(process: psutil.Process) -> bool:
    """Whether it is gone, or a zombie."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # between the two questions
        return True


def _signal_number(name: str | int | None) -> int:
    return signals.Signals[name].value if isinstance(name, str) else int(name or SIGKILL)


def _family(pid: int) -> list[psutil.Process]:
    """Every live process of the group that ``pid`` leads, also when the leader is gone, and all its descendants."""
    members = {}
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == pid and process.status() != psutil.STATUS_ZOMBIE:
                members.update({process.pid: process})
                members.update({child.pid: child for child in process.children(recursive=True)})
        except (psutil.Error, ProcessLookupError):
            continue
    return list(members.values())


def _signal_all(family: Sequence[psutil.Process], signum: int) -> None:
    for process in family:
        try:
            process.send_signal(signum)
        except psutil.NoSuchProcess:
            continue
