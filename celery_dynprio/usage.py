"""Measures in the workers what runs for how long, and for whom.

Each process hands its runs to a sender, which sends the sums about once a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery import signals

from celery_dynprio import message
from celery_dynprio.backlogs.redis_client import RedisClient
from celery_dynprio.learned import RedisUsage, Run
from celery_dynprio.sender import Senders

if TYPE_CHECKING:
    from celery import Celery

    from celery_dynprio.settings import Settings


class Recorder:
    """Measures the runs of one app's tasks in this process, in any pool, forked or not.

    ``settings`` is called when the first task runs: an app may be configured after it was made.
    """

    def __init__(self, app: Celery, settings: Callable[[], Settings]) -> None:
        self._app = app
        self._settings = settings
        self._known: Settings | None = None
        self.senders: Senders[Run] = Senders("learned use", self._open)

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
        fields = vars(request).get(message.HEADER)
        ours = isinstance(fields, dict)
        if self._known.learn and (ours or _queue(request) in self._known.queues):
            key = message.from_header(request.id, task.name, fields, 0.0, 0).key if ours else None
            self.senders.put(Run(task.name, key or "", seconds))

    def _open(self) -> RedisUsage:
        return RedisUsage(RedisClient.from_app(self._app), self._settings().half_life)


def connect(app: Celery, settings: Callable[[], Settings]) -> None:
    """Measure the tasks of this app from now on; a second call changes nothing."""
    recorder = Recorder(app, settings)
    for signal, receiver in (
        (signals.task_prerun, recorder.started),
        (signals.task_postrun, recorder.ended),
        (signals.worker_process_shutdown, recorder.senders.stop),
        (signals.worker_shutdown, recorder.senders.stop),
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
