"""Measures in the workers what runs for how long, and for whom.

Each process hands its runs to a thread of its own, which sends the sums about once a second: nothing touches the
network on a task's path, and nothing here can fail or slow a task.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from celery import signals

from celery_dynprio import message
from celery_dynprio.backlogs.redis_client import RedisClient
from celery_dynprio.errors import UnsupportedBrokerError
from celery_dynprio.learned import RedisUsage, Run, Usage

if TYPE_CHECKING:
    from celery import Celery

    from celery_dynprio.settings import Settings

logger = logging.getLogger(__name__)

#: Runs that wait to be sent; when a broker stays away, the oldest are dropped.
MAX_WAITING: Final = 10_000

#: Seconds between two sends of a process, how long its end may take for the last one, and between two complaints.
SEND_INTERVAL: Final = 1.0
LAST_SEND_TIMEOUT: Final = 3.0
COMPLAINT_INTERVAL: Final = 60.0


class Sender:
    """Carries runs from the tasks of one process to where they are kept, from a thread of its own.

    ``open_usage`` is called in that thread. Whatever goes wrong there, runs are dropped and counted in ``dropped``,
    and a line is logged once a minute. ``interval`` (seconds) is the least time between two sends.
    """

    def __init__(self, open_usage: Callable[[], Usage], interval: float = SEND_INTERVAL) -> None:
        self.dropped = 0
        self._open = open_usage
        self._interval = interval
        self._usage: Usage | None = None
        self._waiting: deque[Run] = deque(maxlen=MAX_WAITING)
        self._something = threading.Event()
        self._stop = threading.Event()
        self._next_complaint = 0.0
        self._thread = threading.Thread(target=self._work, name="dynprio-usage", daemon=True)
        self._starting = threading.Lock()

    def put(self, run: Run) -> None:
        """Hand over a run; never blocks on the network."""
        if len(self._waiting) >= MAX_WAITING:
            self.dropped += 1
        self._waiting.append(run)
        if not self._something.is_set():
            self._something.set()
            self._start()

    def stop(self, timeout: float = LAST_SEND_TIMEOUT) -> None:
        """Send what waits, for at most ``timeout`` seconds, and end the thread."""
        self._stop.set()
        self._something.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _start(self) -> None:
        with self._starting:
            if self._thread.ident is None:
                self._thread.start()

    def _work(self) -> None:
        while not self._stop.is_set():
            self._something.wait()
            self._something.clear()
            self._send()
            self._stop.wait(self._interval)
        self._send()
        if isinstance(self._usage, RedisUsage):
            self._usage.close()

    def _send(self) -> None:
        runs = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if not runs:
            return
        try:
            if self._usage is None:
                self._usage = self._open()
            self._usage.add(runs)
        except UnsupportedBrokerError:
            self.dropped += len(runs)  # said once at the start of the worker
        except Exception as exc:  # noqa: BLE001 - whatever it is, tasks must not notice
            self.dropped += len(runs)
            self._complain(exc)

    def _complain(self, problem: Exception) -> None:
        now = time.monotonic()
        if now >= self._next_complaint:
            self._next_complaint = now + COMPLAINT_INTERVAL
            logger.warning("learned use could not be sent, %d runs dropped so far: %s", self.dropped, problem)


class Recorder:
    """Measures the runs of one app's tasks in this process, in any pool, forked or not.

    ``settings`` is called when the first task runs: an app may be configured after it was made.
    """

    def __init__(self, app: Celery, settings: Callable[[], Settings]) -> None:
        self._app = app
        self._settings = settings
        self._known: Settings | None = None
        self._senders: dict[int, Sender] = {}

    def started(self, task: Any, **_: Any) -> None:
        """Receive ``task_prerun``."""
        if task.app is self._app:
            task.request._dynprio_started = time.perf_counter()  # noqa: SLF001 - ours, and gone with the request

    def ended(self, task: Any, **_: Any) -> None:
        """Receive ``task_postrun``."""
        request = task.request
        began = getattr(request, "_dynprio_started", None)
        if task.app is not self._app or began is None or request.is_eager:
            return
        seconds = time.perf_counter() - began
        if self._known is None:
            self._known = self._settings()
        fields = request.get(message.HEADER)
        ours = isinstance(fields, dict)
        if self._known.learn and (ours or _queue(request) in self._known.queues):
            key = message.from_header(request.id, task.name, fields, 0.0, 0).key if ours else None
            self._sender().put(Run(task.name, key or "", seconds))

    def stop(self, **_: Any) -> None:
        """Receive ``worker_process_shutdown`` and ``worker_shutdown``: send what waits."""
        sender = self._senders.pop(os.getpid(), None)
        if sender is not None:
            sender.stop()

    def _sender(self) -> Sender:
        # By process: threads, and what they held locked, do not survive a fork.
        return self._senders.get(os.getpid()) or self._senders.setdefault(os.getpid(), Sender(self._open))

    def _open(self) -> Usage:
        return RedisUsage(RedisClient.from_app(self._app), self._settings().half_life)


def connect(app: Celery, settings: Callable[[], Settings]) -> None:
    """Measure the tasks of this app from now on; a second call changes nothing."""
    recorder = Recorder(app, settings)
    for signal, receiver in (
        (signals.task_prerun, recorder.started),
        (signals.task_postrun, recorder.ended),
        (signals.worker_process_shutdown, recorder.stop),
        (signals.worker_shutdown, recorder.stop),
    ):
        signal.connect(receiver, weak=False, dispatch_uid=_uid(app))


def disconnect(app: Celery) -> None:
    """Measure no more; what waits is still sent by the threads that have it."""
    for signal in (
        signals.task_prerun,
        signals.task_postrun,
        signals.worker_process_shutdown,
        signals.worker_shutdown,
    ):
        signal.disconnect(dispatch_uid=_uid(app))


def _uid(app: Celery) -> str:
    return f"dynprio-usage-{id(app)}"


def _queue(request: Any) -> object:
    delivery = request.delivery_info
    return delivery.get("routing_key") if isinstance(delivery, dict) else None
