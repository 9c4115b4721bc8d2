"""The failure report: when a task fails for good, one record that tells what led to it, on which workers.

In the process that runs a task Celery's ``task_failure`` says so. What ends that process, a hard time limit, a SIGKILL
or a revocation, is told by the worker's parent process, with the ids that the message carried.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from celery import signals
from celery.exceptions import Ignore, Reject, Retry

from celery_dynprio import tracing
from celery_dynprio.propagation import SPAN
from celery_dynprio.tracing import Ancestor, Span

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger(__name__)

#: As :func:`tell`.
Teller: TypeAlias = Callable[[Span, BaseException, "TracebackType | str | None"], None]

#: The attribute of an exception that holds the report of the task that it ended.
_TOLD: Final = "_dynprio_report"

#: The longest text of an exception in the first line (characters).
MAX_SAID: Final = 500

#: Whatever reports for this thread of a parent process, in place of :func:`tell`.
_teller = threading.local()


@contextmanager
def told_by(teller: Teller) -> Iterator[None]:
    """Let this teller report what Celery's ``task_failure`` tells this thread in this block; see ``received``."""
    outer = getattr(_teller, "tell", None)
    _teller.tell = teller
    try:
        yield
    finally:
        _teller.tell = outer


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
    lines = [f"task {span.task_name}[{span.task_id}] failed for good in trace {span.trace_id}: {_said(exc)}"]
    for depth, each in enumerate((*span.lineage, _itself(span))):
        level = "" if each.level is None else f", P{each.level}"
        wait = "" if each.wait is None else f", waited {each.wait:.3f} s"
        ran = "" if each.ran is None else f", ran {each.ran:.3f} s"
        lines.append(f"  {'  ' * depth}{each.name}[{each.id}] on {each.host or 'an unknown worker'}{level}{wait}{ran}")
    return "\n".join(lines)


def report(exc: BaseException) -> str:
    """The report for Sentry and the like, with the traceback; of the running task, or of the one that ``exc`` ended."""
    told, span = getattr(exc, _TOLD, None), tracing.current()
    if not isinstance(told, str):
        told = None if span is None else describe(span, exc)
    trace = "".join(traceback.format_exception(type(exc), exc, exc.__traceback__)).rstrip()
    return trace if told is None else f"{told}\n{trace}"


def connect(app: Celery) -> None:
    """Report the failures of this app's tasks from now on; a second call changes nothing."""

    def failed(sender: Any = None, task_id: str = "", exception: Any = None, **info: Any) -> None:
        # From 5.7 on Celery sends this for a Reject too; who raises that has decided so.
        if sender is None or sender.app is not app or isinstance(exception, (Ignore, Reject, Retry)):
            return
        span = vars(sender.request).get(SPAN) or tracing.current()
        if not isinstance(span, Span) or span.task_id != task_id:
            return
        exc = exception if isinstance(exception, BaseException) else RuntimeError(str(exception))
        with suppress(Exception):  # not every class takes one more attribute
            setattr(exc, _TOLD, describe(span, exc))
        teller: Teller = getattr(_teller, "tell", None) or tell
        teller(span, exc, info.get("traceback"))

    signals.task_failure.connect(failed, weak=False, dispatch_uid=_uid(app))


def disconnect(app: Celery) -> None:
    """Report no more; doing it twice changes nothing."""
    signals.task_failure.disconnect(dispatch_uid=_uid(app))


def _said(exc: BaseException) -> str:
    """Type and text of an exception in one line that is safe in a log, whatever its class does."""
    try:
        text = " ".join(str(exc).split())[:MAX_SAID]
    except Exception:  # noqa: BLE001 - of the user's own __str__
        text = "<its text cannot be had>"
    return f"{type(exc).__name__}: {text if text.isprintable() else text.encode('unicode_escape').decode()[:MAX_SAID]}"


def _itself(span: Span) -> Ancestor:
    ran = None if span.started is None else max(time.time() - span.started, 0.0)
    return Ancestor(span.task_name, span.task_id, span.host, span.level, span.wait, ran)


def _row(each: Ancestor) -> dict[str, Any]:
    return {name: getattr(each, name) for name in ("name", "id", "host", "level", "wait", "ran")}


def _uid(app: Celery) -> str:
    return f"dynprio-failures-{id(app)}"
