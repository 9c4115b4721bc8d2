"""The candidate that each worker carries, for apps that run no reprioritizer of their own.

It is a timer that looks at the leases, nothing more. The candidate that finds one free starts the reprioritizer as a
child process, as ``worker -B`` starts beat; but by exec, not fork, so that any pool and any thread may be around. The
child exits with its worker, however that ends, and when it leads no queue any more.
"""

from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import click
from celery import Celery, bootsteps
from celery.utils.nodenames import node_format

from celery_dynprio.complaints import Complaints
from celery_dynprio.errors import DynPrioError
from celery_dynprio.ports.broker import Broker
from celery_dynprio.ports.installation import Installation, installation_of
from celery_dynprio.ports.lease import Holder
from celery_dynprio.settings import Settings

logger = logging.getLogger("celery_dynprio.embedded")

#: Seconds that a look at the leases may wait for the broker: it runs in the worker's own loop.
LOOK_TIMEOUT: Final = 1.0

#: Seconds until the first look, at most; later ones come twice in the life of a lease.
FIRST_LOOK: Final = 1.0

#: Seconds between the end of a child and the next: at first, doubled by each child that did not live long, and at most.
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0
LONG_LIFE: Final = 30.0

#: Seconds that a child gets to finish its batch before it is killed.
STOP_TIMEOUT: Final = 5.0

#: One child leads so many queues, and more only if no other worker can help.
QUEUES_EACH: Final = 100

#: Seconds that a child may take until it renews its leases itself.
START_TIMEOUT: Final = 30.0


class Child:
    """The reprioritizer process of one worker, started no faster than is sensible.

    ``clock`` gives seconds that never go back.
    """

    def __init__(self, command: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._command = command
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._pause = FIRST_PAUSE
        self._not_before = 0.0

    def alive(self) -> bool:
        """Whether it runs; one that ended is reaped."""
        if self._process is None:
            return False
        code = self._process.poll()
        if code is None:
            return True
        self._process = None
        lived = self._clock() - self._started
        self._pause = FIRST_PAUSE if lived >= LONG_LIFE else min(2 * self._pause, LONGEST_PAUSE)
        self._not_before = self._clock() + self._pause
        logger.log(logging.WARNING if code else logging.INFO, "embedded reprioritizer ended with %d", code)
        return False

    def starting(self) -> bool:
        """Whether it runs, and was started so short a time ago that it may not renew its leases yet."""
        return self.alive() and self._clock() - self._started < START_TIMEOUT

    def may_start(self) -> bool:
        """Whether none runs and the last one ended long enough ago."""
        return not self.alive() and self._clock() >= self._not_before

    def start(self) -> None:
        """Start it; it inherits the worker's environment, folder, stdout and stderr."""
        self._started = self._clock()
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)  # noqa: S603 - our own command
        logger.info("embedded reprioritizer started, process %d", self._process.pid)

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """Ask it to finish its batch, and kill it after ``timeout`` seconds."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def needs_another(holders: Collection[Holder]) -> bool:
    """Whether those who lead the queues are embedded, and so few that each has more than :data:`QUEUES_EACH`."""
    owners = {holder.owner for holder in holders}
    return len(holders) > QUEUES_EACH * len(owners) and all(holder.kind == "embedded" for holder in holders)


class Watch:
    """Looks at the leases of an app's queues, and has the child started when one is free, or a child has very many.

    ``connect`` opens a connection that gives up soon. Broker trouble is logged once a minute and otherwise ignored: the
    next look may succeed.
    """

    def __init__(self, connect: Callable[[], Broker], settings: Settings, owner: str, child: Child) -> None:
        self._connect = connect
        self._settings = settings
        self._owner = owner
        self._child = child
        self._broker: Broker | None = None
        self._complain = Complaints(logger, "could not look whether a reprioritizer runs: %s", level=logging.WARNING)

    def look(self) -> None:
        """Take what is free, and renew it until the child does so itself."""
        starting = self._child.starting()
        if not starting and not self._child.may_start():
            self.close()
            return
        try:
            if self._acquire() and not starting:
                self._child.start()
                self.close()  # there is nothing to look at while it lives
        except Exception as exc:
            if not isinstance(exc, (DynPrioError, *self._broker_errors())):
                raise
            self.close()
            self._complain(exc)

    def close(self) -> None:
        """Close the connection to the broker; the next look opens another."""
        if self._broker is not None:
            self._broker.close()
            self._broker = None

    def _acquire(self) -> bool:
        if self._broker is None:
            self._broker = self._connect()
        leases = self._broker.leases(self._settings.queues, self._owner, "embedded", self._settings.lease_ttl)
        holders = leases.holders()
        # All that are free, and what a child that died left.
        free = [queue for queue in self._settings.queues if queue not in holders or holders[queue].owner == self._owner]
        fences = leases.acquire(free) if free else {}
        return any(fence is not None for fence in fences.values()) or needs_another(holders.values())

    def _broker_errors(self) -> tuple[type[Exception], ...]:
        return () if self._broker is None else self._broker.errors.any


class Candidate(bootsteps.StartStopStep):
    """The step of a worker's consumer that carries the timer and the child.

    Of the consumer and not of the worker, because Celery 5.5 clears the worker's timers with each lost connection.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        self._installation = installation_of(parent.app)
        self._round = 0
        self._ttl = 0.0
        self._child: Child | None = None
        self._watch: Watch | None = None

    def include_if(self, parent: Any) -> bool:  # noqa: ARG002 - Celery's signature
        """Whether the app wants it, and the broker can have managed queues at all."""
        installation = self._installation
        return installation is not None and installation.settings.embedded and installation.supported

    def start(self, c: Any) -> None:
        """Begin to look, at the first connection and at each later one."""
        installation = self._installation
        if installation is None or (self._watch is None and not self._prepare(c, installation)):
            return
        self._schedule(c, random.uniform(0, FIRST_LOOK))  # noqa: S311 - so that workers do not look all at once

    def stop(self, c: Any) -> None:  # noqa: ARG002 - Celery's signature
        """Look no more; the child lives on, as the connection may only be lost."""
        self._round += 1
        if self._watch is not None:
            self._watch.close()

    def shutdown(self, c: Any) -> None:
        """End the child with the worker."""
        self.stop(c)
        if self._child is not None:
            self._child.stop()

    def _prepare(self, c: Any, installation: Installation) -> bool:
        path = app_path(c.app)
        if path is None:
            logger.warning(
                "no module has this Celery app in an attribute, so no reprioritizer can be started from this worker: "
                "run `celery -A proj dynprio run`"
            )
            return False
        owner = f"{c.hostname}:{os.getpid()}:{uuid4().hex[:8]}"
        self._child = Child(_command(path, owner, c.controller))
        self._ttl = installation.settings.lease_ttl
        self._watch = Watch(lambda: installation.connect(LOOK_TIMEOUT), installation.settings, owner, self._child)
        return True

    def _schedule(self, c: Any, seconds: float) -> None:
        # A timer's entry is cancelled differently in each pool, so that one of an earlier round is told by its number.
        self._round += 1
        c.timer.call_after(seconds, self._look, (c, self._round))

    def _look(self, c: Any, number: int) -> None:
        if number != self._round:
            return
        try:
            if self._watch is not None:
                self._watch.look()
        except Exception:  # a timer that raises would be the last look, or the end of the worker
            if number == self._round:  # or else a stop in another greenlet closed the connection
                logger.exception("could not start the embedded reprioritizer")
        if number == self._round:
            self._schedule(c, self._ttl / 2 * random.uniform(0.8, 1.0))  # noqa: S311


def app_path(app: Celery) -> str | None:
    """What to say after ``celery -A`` to get this app, or None if no module has it."""
    context = click.get_current_context(silent=True)
    given = context.find_root().params.get("app") if context is not None else None
    if isinstance(given, str):
        return given
    main = sys.modules.get("__main__")
    for name, module in list(sys.modules.items()):
        # multiprocessing lists the script a second time, under a name that nobody can import.
        importable = _script_name(module) if module is main else name
        for attribute, value in list(getattr(module, "__dict__", {}).items()):
            if value is app and importable not in {None, "celery._state"}:
                return f"{importable}:{attribute}"
    return os.environ.get("CELERY_APP")


def _script_name(script: Any) -> str | None:
    """The name by which a script that was started by ``python proj.py`` or ``python -m proj`` can be imported."""
    if script.__spec__ is not None:
        return str(script.__spec__.name)
    path = Path(getattr(script, "__file__", None) or os.devnull)
    return path.stem if path.resolve().parent == Path.cwd() else None


def _command(path: str, owner: str, worker: Any) -> list[str]:
    level = min(max(int(worker.loglevel or logging.WARNING) // 10 * 10, logging.DEBUG), logging.CRITICAL)
    command = [sys.executable, "-m", "celery", "-A", path, "dynprio", "run", "--embedded", owner, "--loglevel"]
    command.append(logging.getLevelName(level))
    if isinstance(worker.logfile, str):
        command += ["--logfile", node_format(worker.logfile, worker.hostname)]
    return command
