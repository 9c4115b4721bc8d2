"""Keeps what becomes of the tasks of this process: in the trace store, and in all that learns from runs or counts them.

On a task's path the run alone is put aside, once: what there is to report of it is read in the sender's thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from celery import signals
from celery._state import get_current_worker_task

from celery_dynprio.hosting.signals import Connections
from celery_dynprio.ports.broker import Broker
from celery_dynprio.tracing.failure_report import exception_line
from celery_dynprio.tracing.runs import Running, needed
from celery_dynprio.tracing.span import LINEAGE, Span
from celery_dynprio.worker.entries import EndReport, Entry, PublishedTask
from celery_dynprio.worker.outlets import open_outlets
from celery_dynprio.worker.sender import Senders

if TYPE_CHECKING:
    from celery import Celery

    from celery_dynprio.settings import Settings


class Recorder:
    """Records one app's tasks in this process, in any pool, forked or not; eager ones are left out.

    ``settings`` is called when the first task runs: an app may be configured after it was made. ``connect`` is called
    in the sender's thread.
    """

    def __init__(self, app: Celery, settings: Callable[[], Settings], connect: Callable[[], Broker]) -> None:
        self._app = app
        self._settings = settings
        self._on: bool | None = None
        #: Whether what ends outside of a run is recorded: the trace store and recordings want it.
        self._tells_ends = False
        self.senders: Senders[Entry] = Senders(
            "what tasks did", lambda sender: open_outlets(settings(), connect, sender), _lose
        )
        stop = self.senders.stop
        self._connections = Connections(
            "recorder", app, (signals.worker_process_shutdown, stop, None), (signals.worker_shutdown, stop, None)
        )
        # Only where tasks run: publishers elsewhere have nothing to record.
        self._publishing = Connections("recorder", app, (signals.after_task_publish, self.published, None))

    def connect(self) -> None:
        """Record what :meth:`follow` is given, and send what waits when this process ends."""
        self._connections.connect()

    def disconnect(self) -> None:
        """Record no more; what waits is still sent by the threads that have it."""
        self._connections.disconnect()
        self._publishing.disconnect()

    def follow(self, run: Running) -> None:
        """Record a run that begins, or that has ended since it was reported."""
        if self._on is None:
            self._on = self._decide()
        if self._on:
            self.senders.put(run)

    def published(self, headers: Any = None, routing_key: Any = None, **_: Any) -> None:
        """Receive ``after_task_publish``: what a task publishes belongs to its trace before any worker has it."""
        task = get_current_worker_task()
        if task is not None and task.app is self._app and isinstance(headers, dict) and LINEAGE in headers:
            run = Running.of(task.request)
            if run is not None:
                run.lead()
            self.senders.put(PublishedTask(headers, str(routing_key or "")))

    def record(self, state: str, span: Span, headers: Mapping[str, Any], exc: BaseException) -> None:
        """Record what the worker's parent process knows of a run, or of a message that is not run at all."""
        if self._on is None:
            self._on = self._decide()
        if self._tells_ends:
            ran = None if span.started is None else max(time.time() - span.started, 0.0)
            self.senders.put(EndReport(state, span, needed(headers), ran, exception_line(exc)))

    def stop(self) -> None:
        """Send what waits, for a few seconds at most, before this process ends."""
        self.senders.stop()

    def _decide(self) -> bool:
        """Look into the settings, once, whether anything is to be recorded, and what."""
        settings = self._settings()
        if settings.trace:
            self._publishing.connect()
        recorded = settings.record is not None
        self._tells_ends = settings.trace or recorded
        counted = settings.metrics_port is not None or bool(settings.objectives)
        return settings.trace or settings.learn or counted or recorded


def _lose(entry: Entry) -> None:
    if isinstance(entry, Running):
        entry.report()  # to nobody: its end, if it is still to come, is reported all the same
