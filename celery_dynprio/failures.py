"""The failure report: when a task fails for good, one record that tells what led to it, on which workers.

In the process that runs a task Celery's ``task_failure`` says so. What ends that process, a hard time limit, a SIGKILL
or a revocation, is told by the worker's parent process, with the ids that the message carried.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from billiard.exceptions import Terminated, TimeLimitExceeded
from celery import signals
from celery.worker.request import Request

from celery_dynprio import tracing
from celery_dynprio.propagation import SPAN, span_of_headers, steps_of
from celery_dynprio.tracing import Ancestor, Span

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger(__name__)

#: The attribute of an exception that tells in which span it ended a task.
_FAILED: Final = "_dynprio_failed_in"

#: The longest text of an exception in the first line (characters).
MAX_SAID: Final = 500

#: The request that this thread of a parent process is busy with.
_busy = threading.local()


class TracedRequest(Request):
    """A request in the worker's parent process; what Celery logs of it, and what ends it there, has its trace.

    Celery offers no signal for all that happens there (5.5 has none for a hard time limit, later ones have two):
    ``Task.Request`` is its hook.
    """

    told = False

    def on_timeout(self, soft: bool, timeout: float) -> None:  # noqa: FBT001 - Celery's signature
        """Report a hard time limit; a soft one is an exception in the task."""
        with self._traced() as span:
            super().on_timeout(soft, timeout)
            if not soft:
                self.tell(span, TimeLimitExceeded(timeout))

    def on_failure(self, *args: Any, **kwargs: Any) -> Any:
        """Celery sends ``task_failure`` here if the process that ran the task is lost."""
        with self._traced():
            return super().on_failure(*args, **kwargs)

    def _announce_revoked(self, reason: str, terminated: bool, *args: Any) -> None:  # noqa: FBT001
        with self._traced() as span:
            super()._announce_revoked(reason, terminated, *args)
            if terminated and self.time_start:
                self.tell(span, Terminated("revoked while it ran"))

    def tell(self, span: Span, exc: BaseException, trace: TracebackType | str | None = None) -> None:
        """Report once, however many ways Celery has to say it."""
        if not self.told:
            self.told = True
            tell(span, exc, trace)

    @contextmanager
    def _traced(self) -> Iterator[Span]:
        span = span_of_headers(
            self._request_dict,
            self.delivery_info,
            steps=steps_of(self._app, lambda: None),  # type: ignore[arg-type,return-value]
            host=self._hostname,
            started=self.time_start,
        )
        _busy.request = self
        try:
            with tracing.resume(span):
                yield span
        finally:
            _busy.request = None


def tell(span: Span, exc: BaseException, trace: TracebackType | str | None = None) -> None:
    """Log the report of a task that failed for good, as one ERROR record."""
    text = describe(span, exc)
    if isinstance(trace, str):
        text = f"{text}\n{trace.rstrip()}"
    lineage = [_row(each) for each in (*span.lineage, _itself(span))]
    info = (type(exc), exc, trace) if isinstance(trace, TracebackType) else None
    logger.error("%s", text, exc_info=info, extra={"lineage": lineage})


def describe(span: Span, exc: BaseException) -> str:
    """The report as text, without the traceback: what happened, then the tasks that led here, the root first."""
    said = " ".join(f"{type(exc).__name__}: {exc}".split())[:MAX_SAID]
    lines = [f"task {span.task_name}[{span.task_id}] failed for good in trace {span.trace_id}: {said}"]
    for depth, each in enumerate((*span.lineage, _itself(span))):
        level = "" if each.level is None else f", P{each.level}"
        wait = "" if each.wait is None else f", waited {each.wait:.3f} s"
        ran = "" if each.ran is None else f", ran {each.ran:.3f} s"
        lines.append(f"  {'  ' * depth}{each.name}[{each.id}] on {each.host or 'an unknown worker'}{level}{wait}{ran}")
    return "\n".join(lines)


def report(exc: BaseException) -> str:
    """The report for Sentry and the like, with the traceback; of the running task, or of the one that ``exc`` ended."""
    span: Span | None = getattr(exc, _FAILED, None) or tracing.current()
    trace = "".join(traceback.format_exception(type(exc), exc, exc.__traceback__)).rstrip()
    return trace if span is None else f"{describe(span, exc)}\n{trace}"


def connect(app: Celery) -> None:
    """Report the failures of this app's tasks from now on; a second call changes nothing."""

    def failed(sender: Any = None, task_id: str = "", exception: Any = None, **info: Any) -> None:
        if sender is None or sender.app is not app:
            return
        span = vars(sender.request).get(SPAN) or tracing.current()
        if not isinstance(span, Span) or span.task_id != task_id:
            return
        exc = exception if isinstance(exception, BaseException) else RuntimeError(str(exception))
        setattr(exc, _FAILED, span)
        busy: TracedRequest | None = getattr(_busy, "request", None)
        (tell if busy is None else busy.tell)(span, exc, info.get("traceback"))

    signals.task_failure.connect(failed, weak=False, dispatch_uid=_uid(app))
    app.Task.Request = f"{__name__}:{TracedRequest.__name__}"


def disconnect(app: Celery) -> None:
    """Report no more; doing it twice changes nothing."""
    signals.task_failure.disconnect(dispatch_uid=_uid(app))
    if "Request" in vars(app.Task):
        del app.Task.Request


def _itself(span: Span) -> Ancestor:
    ran = None if span.started is None else max(time.time() - span.started, 0.0)
    return Ancestor(span.task_name, span.task_id, span.host, span.level, span.wait, ran)


def _row(each: Ancestor) -> dict[str, Any]:
    return {name: getattr(each, name) for name in ("name", "id", "host", "level", "wait", "ran")}


def _uid(app: Celery) -> str:
    return f"dynprio-failures-{id(app)}"
