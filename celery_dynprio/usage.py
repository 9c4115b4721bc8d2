"""Measures in the workers what runs for how long, for whom, and, if there are metrics, after which wait.

Each process hands its runs to a sender, which sends the sums about once a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from celery import signals

from celery_dynprio import message
from celery_dynprio.attainment import RedisAttainment, Start
from celery_dynprio.backlogs.redis_client import RedisClient
from celery_dynprio.histograms import RedisHistograms
from celery_dynprio.learned import RedisUsage, Run
from celery_dynprio.objectives import Names
from celery_dynprio.propagation import SPAN
from celery_dynprio.sender import Senders, Store
from celery_dynprio.tracing import Span

if TYPE_CHECKING:
    from celery import Celery

    from celery_dynprio.settings import Settings


class _Stores:
    """Several stores that take the same entries."""

    def __init__(self, stores: Sequence[Store[Run]]) -> None:
        self._stores = stores

    def add(self, entries: Sequence[Run], /) -> None:
        for store in self._stores:
            store.add(entries)

    def close(self) -> None:
        for store in self._stores:
            store.close()


class Recorder:
    """Measures the runs of one app's tasks in this process, in any pool, forked or not.

    ``settings`` is called when the first task runs: an app may be configured after it was made.
    """

    def __init__(self, app: Celery, settings: Callable[[], Settings]) -> None:
        self._app = app
        self._settings = settings
        self._known: Settings | None = None
        self.senders: Senders[Run] = Senders("learned use", self._open)
        self.starts: Senders[Start] = Senders("starts for objectives", self._open_attainment)
        self._promised = Names(())

    def started(self, task: Any, **_: Any) -> None:
        """Receive ``task_prerun``."""
        if task.app is not self._app:
            return
        request = task.request
        request._dynprio_started = time.perf_counter()  # noqa: SLF001 - ours, and gone with the request
        if self._known is None:
            self._known = self._settings()
            self._promised = Names([objective.match for objective in self._known.objectives])
        if self._promised.matching(task.name) and not request.is_eager:
            wait = _wait(vars(request).get(SPAN), request)
            if wait is not None:
                self.starts.put(Start(task.name, wait))

    def ended(self, task: Any, **_: Any) -> None:
        """Receive ``task_postrun``."""
        request = task.request
        began = getattr(request, "_dynprio_started", None)
        if task.app is not self._app or began is None or self._known is None or request.is_eager:
            return
        seconds = time.perf_counter() - began
        fields = vars(request).get(message.HEADER)
        ours, counts = isinstance(fields, dict), self._known.metrics_port is not None
        if (self._known.learn or counts) and (ours or _queue(request) in self._known.queues):
            pending = message.from_header(request.id, task.name, fields if ours else {}, 0.0, 0)
            more = _more(request, pending.deadline) if counts else ()
            self.senders.put(Run(task.name, pending.key or "", seconds, *more))

    def stop(self, **_: Any) -> None:
        """Receive ``worker_process_shutdown`` and ``worker_shutdown``: send what waits."""
        self.senders.stop()
        self.starts.stop()

    def _open_attainment(self) -> RedisAttainment:
        return RedisAttainment(RedisClient.from_app(self._app), self._settings().objectives)

    def _open(self) -> Store[Run]:
        settings, client = self._settings(), RedisClient.from_app(self._app)
        stores: list[Store[Run]] = []
        if settings.learn:
            stores.append(RedisUsage(client, settings.half_life))
        if settings.metrics_port is not None:
            stores.append(RedisHistograms(client))
        return _Stores(stores)


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


def _more(request: Any, deadline: float | None) -> tuple[int | None, float | None, bool | None]:
    """What a histogram tells besides the run time: level, wait, whether it started by ``deadline`` (Unix seconds)."""
    span = vars(request).get(SPAN)
    if not isinstance(span, Span):
        return None, None, None
    in_time = None if deadline is None or span.started is None else span.started <= deadline
    return span.level, _wait(span, request), in_time


def _wait(span: Span | None, request: Any) -> float | None:
    """Seconds from publishing to start; None for who asked for an eta, or is tried again later: that is no waiting."""
    return span.wait if span is not None and request.eta is None else None


def _queue(request: Any) -> object:
    delivery = request.delivery_info
    return delivery.get("routing_key") if isinstance(delivery, dict) else None
