"""The failure report: when a task fails for good, one record that tells what led to it, on which workers.

In the process that runs a task Celery's ``task_failure`` says so. What ends that process, a hard time limit, a SIGKILL
or a revocation, is told by the worker's parent process, with the ids that the message carried.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from celery import signals
from celery.exceptions import Ignore, Reject, Retry

from celery_dynprio.hosting.signals import Connections
from celery_dynprio.tracing.context import current
from celery_dynprio.tracing.runs import Running
from celery_dynprio.tracing.span import Ancestor, Span
from celery_dynprio.untrusted import clean

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger("celery_dynprio.failures")

#: The attribute of an exception that holds the report of the task that it ended.
REPORT: Final = "_dynprio_report"

#: The longest text of an exception in the first line of a report (characters).
MAX_ERROR: Final = 500

#: As :func:`log_failure`.
Reporter: TypeAlias = Callable[[Span, BaseException, "TracebackType | str | None"], None]

#: Whatever reports for this thread of a parent process, in place of :func:`log_failure`.
_reporting = threading.local()

#: Sentry's module for logging, once it leaves failures to Celery.
_left_to_celery: list[ModuleType] = []


def describe(span: Span, exc: BaseException) -> str:
    """Return the report as text, without the traceback: the failure, then the tasks that led here, the root first."""
    lines = [f"task {span.task_name}[{span.task_id}] failed for good in trace {span.trace_id}: {exception_line(exc)}"]
    for depth, each in enumerate((*span.lineage, span.as_ancestor(time.time()))):
        level = "" if each.level is None else f", P{each.level}"
        wait = "" if each.wait is None else f", waited {each.wait:.3f} s"
        ran = "" if each.ran is None else f", ran {each.ran:.3f} s"
        lines.append(f"  {'  ' * depth}{each.name}[{each.id}] on {each.host or 'an unknown worker'}{level}{wait}{ran}")
    return "\n".join(lines)


def report(exc: BaseException) -> str:
    """Return the report with the traceback, for Sentry and the like, of the task that runs or that ``exc`` ended."""
    text, span = getattr(exc, REPORT, None), current()
    if not isinstance(text, str):
        text = None if span is None else describe(span, exc)
    trace = "".join(traceback.format_exception(type(exc), exc, exc.__traceback__)).rstrip()
    return trace if text is None else f"{text}\n{trace}"


def exception_line(exc: BaseException) -> str:
    """Return type and text of an exception in one line that is safe to log, whatever its class does."""
    try:
        text = " ".join(str(exc).split())[:MAX_ERROR]
    except Exception:  # noqa: BLE001 - of the user's own __str__
        text = "<no text: its __str__ failed>"
    return f"{type(exc).__name__}: {text if text.isprintable() else text.encode('unicode_escape').decode()[:MAX_ERROR]}"


@contextmanager
def reporting_by(reporter: Reporter) -> Iterator[None]:
    """Let this reporter handle what Celery's ``task_failure`` says to this thread in this block; see ``received``."""
    outer = getattr(_reporting, "by", None)
    _reporting.by = reporter
    try:
        yield
    finally:
        _reporting.by = outer


def log_failure(span: Span, exc: BaseException, trace: TracebackType | str | None = None) -> None:
    """Log the report of a task that failed for good, as one ERROR record; ``report`` has the same text from then on."""
    text = _described(span, exc)
    if isinstance(trace, str):
        text = f"{text}\n{trace.rstrip()}"
    lineage = [_row(each) for each in (*span.lineage, span.as_ancestor(time.time()))]
    info = None if isinstance(trace, str) else (type(exc), exc, trace)
    _leave_to_celery()
    logger.error("%s", text, exc_info=info, extra={"lineage": lineage})


def _described(span: Span, exc: BaseException) -> str:
    text = describe(span, exc)
    with suppress(Exception):  # not every class takes one more attribute
        setattr(exc, REPORT, text)
    return text


def _leave_to_celery() -> None:
    """Keep Sentry, where it is used, from making a second event of a failure: Celery's own is one already.

    Its own integration with Celery does the same to Celery's loggers. Once, so that what a user changes later stands.
    """
    sentry = sys.modules.get("sentry_sdk.integrations.logging")
    if sentry is not None and not _left_to_celery:
        _left_to_celery.append(sentry)
        sentry.ignore_logger(logger.name)


def connections(app: Celery) -> Connections:
    """Return what reports the failures of this app's tasks while it is connected."""

    def failed(sender: Any = None, task_id: str = "", exception: Any = None, **info: Any) -> None:
        # From 5.7 on Celery sends this for a Reject too; who raises that has decided so.
        if sender is None or sender.app is not app or isinstance(exception, (Ignore, Reject, Retry)):
            return
        run = Running.of(sender.request)
        span = current() if run is None else run.span()
        if span is None or span.task_id != clean(task_id):
            return
        exc = exception if isinstance(exception, BaseException) else RuntimeError(str(exception))
        reporter: Reporter | None = getattr(_reporting, "by", None)
        if reporter is None and isinstance(exc, sender.throws or ()):
            _described(span, exc)  # expected: Celery says so at INFO, without a traceback
            return
        (reporter or log_failure)(span, exc, info.get("traceback"))

    return Connections("failures", app, (signals.task_failure, failed, None))


def _row(each: Ancestor) -> dict[str, Any]:
    return {name: getattr(each, name) for name in ("name", "id", "host", "level", "wait", "ran")}
