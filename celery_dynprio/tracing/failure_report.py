"""The failure report: when a task fails for good, one record that tells what led to it, on which workers.

In the process that runs a task Celery's ``task_failure`` says so. What ends that process, a hard time limit, a SIGKILL
or a revocation, is told by the worker's parent process, with the ids that the message carried.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

from celery import signals
from celery.exceptions import Ignore, Reject, Retry

from celery_dynprio import message
from celery_dynprio.tracing import context as tracing
from celery_dynprio.tracing.context import TOLD, Ancestor, Span
from celery_dynprio.tracing.runs import Running

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger("celery_dynprio.failures")

#: As :func:`tell`.
Teller: TypeAlias = Callable[[Span, BaseException, "TracebackType | str | None"], None]

#: Whatever reports for this thread of a parent process, in place of :func:`tell`.
_teller = threading.local()

#: Sentry's module for logging, once it leaves failures to Celery.
_left_to_celery: list[ModuleType] = []


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
    """Log the report of a task that failed for good, as one ERROR record; ``report`` has the same text from then on."""
    text = _described(span, exc)
    if isinstance(trace, str):
        text = f"{text}\n{trace.rstrip()}"
    lineage = [_row(each) for each in (*span.lineage, tracing.itself(span))]
    info = None if isinstance(trace, str) else (type(exc), exc, trace)
    _leave_to_celery()
    logger.error("%s", text, exc_info=info, extra={"lineage": lineage})


def _described(span: Span, exc: BaseException) -> str:
    text = tracing.describe(span, exc)
    with suppress(Exception):  # not every class takes one more attribute
        setattr(exc, TOLD, text)
    return text


def _leave_to_celery() -> None:
    """Keep Sentry, where it is used, from making a second event of a failure: Celery's own is one already.

    Its own integration with Celery does the same to Celery's loggers. Once, so that what a user changes later stands.
    """
    sentry = sys.modules.get("sentry_sdk.integrations.logging")
    if sentry is not None and not _left_to_celery:
        _left_to_celery.append(sentry)
        sentry.ignore_logger(logger.name)


def connect(app: Celery) -> None:
    """Report the failures of this app's tasks from now on; a second call changes nothing."""

    def failed(sender: Any = None, task_id: str = "", exception: Any = None, **info: Any) -> None:
        # From 5.7 on Celery sends this for a Reject too; who raises that has decided so.
        if sender is None or sender.app is not app or isinstance(exception, (Ignore, Reject, Retry)):
            return
        run = Running.of(sender.request)
        span = tracing.current() if run is None else run.span()
        if span is None or span.task_id != message.clean(task_id):
            return
        exc = exception if isinstance(exception, BaseException) else RuntimeError(str(exception))
        teller: Teller | None = getattr(_teller, "tell", None)
        if teller is None and isinstance(exc, sender.throws or ()):
            _described(span, exc)  # expected: Celery says so at INFO, without a traceback
            return
        (teller or tell)(span, exc, info.get("traceback"))

    signals.task_failure.connect(failed, weak=False, dispatch_uid=_uid(app))


def disconnect(app: Celery) -> None:
    """Report no more; doing it twice changes nothing."""
    signals.task_failure.disconnect(dispatch_uid=_uid(app))


def _row(each: Ancestor) -> dict[str, Any]:
    return {name: getattr(each, name) for name in ("name", "id", "host", "level", "wait", "ran")}


def _uid(app: Celery) -> str:
    return f"dynprio-failures-{id(app)}"
