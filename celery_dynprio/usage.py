"""Measures in the workers what runs for how long, for whom, and, if there are metrics, after which wait.

Each process hands its runs to a sender, which reads them, and sends the sums about once a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from celery import signals

from celery_dynprio import message, runs
from celery_dynprio.attainment import RedisAttainment, Start
from celery_dynprio.backlogs.redis_client import RedisClient
from celery_dynprio.histograms import RedisHistograms
from celery_dynprio.learned import RedisUsage, Run
from celery_dynprio.objectives import Names
from celery_dynprio.propagation import Running
from celery_dynprio.sender import Senders, Store

if TYPE_CHECKING:
    from celery import Celery

    from celery_dynprio.settings import Settings


class Begun(NamedTuple):
    """A run of a task that an objective is about."""

    name: str
    run: Running


class Ended(NamedTuple):
    """A run that has ended; ``run`` is for histograms, and None where there are none or no tracing."""

    name: str
    seconds: float
    #: The ``dynprio`` header.
    fields: Mapping[str, Any]
    run: Running | None
    #: Whether it was asked for at a time of its own, or is tried again: that is no waiting.
    scheduled: bool


class Recorder:
    """Measures the runs of one app's tasks in this process, in any pool, forked or not.

    ``settings`` is called when the first task runs: an app may be configured after it was made.
    """

    def __init__(self, app: Celery, settings: Callable[[], Settings]) -> None:
        self._app = app
        self._settings = settings
        self._known: Settings | None = None
        self.senders: Senders[Ended] = Senders("learned use", self._open)
        self.starts: Senders[Begun] = Senders("starts for objectives", self._open_attainment)
        self._promised = Names(())

    def started(self, task: Any, request: Any) -> None:
        """Note when a run begins, and count it for the objectives."""
        request._dynprio_began = time.perf_counter()  # noqa: SLF001 - ours, and gone with the request
        if self._known is None:
            self._known = self._settings()
            self._promised = Names([objective.match for objective in self._known.objectives])
        if self._promised.matching(task.name) and request.eta is None and not request.is_eager:
            run = Running.of(request)
            if run is not None:
                self.starts.put(Begun(task.name, run))

    def ended(self, task: Any, request: Any, state: object, retval: object) -> None:  # noqa: ARG002 - a follower's
        """Measure a run."""
        known, began = self._known, vars(request).get("_dynprio_began")
        if known is None or began is None or request.is_eager or (not known.learn and known.metrics_port is None):
            return
        fields = vars(request).get(message.HEADER)
        if not isinstance(fields, dict):
            if _queue(request) not in known.queues:
                return
            fields = {}
        seconds, run = time.perf_counter() - began, None
        if known.metrics_port is not None:  # learned use alone needs no span
            run = Running.of(request)
        self.senders.put(Ended(task.name, seconds, fields, run, request.eta is not None))

    def stop(self, **_: Any) -> None:
        """Receive ``worker_process_shutdown`` and ``worker_shutdown``: send what waits."""
        self.senders.stop()
        self.starts.stop()

    def _open_attainment(self) -> Store[Begun]:
        return _Starts(RedisAttainment(RedisClient.from_app(self._app), self._settings().objectives))

    def _open(self) -> Store[Ended]:
        settings, client = self._settings(), RedisClient.from_app(self._app)
        stores: list[Store[Run]] = []
        if settings.learn:
            stores.append(RedisUsage(client, settings.half_life))
        if settings.metrics_port is not None:
            stores.append(RedisHistograms(client))
        return _Stores(stores)


class _Stores:
    """Several stores that take the same runs."""

    def __init__(self, stores: Sequence[Store[Run]]) -> None:
        self._stores = stores

    def add(self, entries: Sequence[Ended], /) -> None:
        ended = [measured(entry) for entry in entries]
        for store in self._stores:
            store.add(ended)

    def close(self) -> None:
        for store in self._stores:
            store.close()


class _Starts:
    """What counts the starts for objectives."""

    def __init__(self, attainment: RedisAttainment) -> None:
        self._attainment = attainment

    def add(self, entries: Sequence[Begun], /) -> None:
        waits = [(entry.name, entry.run.span().wait) for entry in entries]
        self._attainment.add([Start(name, wait) for name, wait in waits if wait is not None])

    def close(self) -> None:
        self._attainment.close()


def measured(entry: Ended) -> Run:
    """What is kept of a run that has ended."""
    key = message.text_of(entry.fields.get("key"), message.MAX_KEY)
    if entry.run is None:
        return Run(entry.name, key, entry.seconds)
    span, deadline = entry.run.span(), message.number(entry.fields.get("due"))
    in_time = None if deadline is None else entry.run.started <= deadline
    return Run(entry.name, key, entry.seconds, span.level, None if entry.scheduled else span.wait, in_time)


def connect(app: Celery, settings: Callable[[], Settings]) -> None:
    """Measure the tasks of this app from now on; a second call changes nothing."""
    recorder = Recorder(app, settings)
    for signal in (signals.worker_process_shutdown, signals.worker_shutdown):
        signal.connect(recorder.stop, weak=False, dispatch_uid=_uid(app))
    runs.follow(app, "usage", recorder)


def disconnect(app: Celery) -> None:
    """Measure no more; what waits is still sent by the threads that have it."""
    for signal in (signals.worker_process_shutdown, signals.worker_shutdown):
        signal.disconnect(dispatch_uid=_uid(app))
    runs.unfollow(app, "usage")


def _uid(app: Celery) -> str:
    return f"dynprio-usage-{id(app)}"


def _queue(request: Any) -> object:
    delivery = request.delivery_info
    return delivery.get("routing_key") if isinstance(delivery, dict) else None
