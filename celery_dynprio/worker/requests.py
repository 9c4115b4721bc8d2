"""Requests of a worker's parent process that know their trace, and report how they end.

Celery sends no signal for all that happens there: 5.5 has none for a hard time limit, later versions have one.
``Task.Request`` is Celery's hook for it. This module is for those who have ``celery.worker`` imported anyway; whatever
Request a task has of its own is kept below ours.
"""

from __future__ import annotations

import functools
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from billiard.exceptions import Terminated, TimeLimitExceeded
from celery.exceptions import TaskRevokedError
from celery.states import FAILURE, REVOKED
from celery.worker import state

from celery_dynprio.levels import Scale
from celery_dynprio.ports.installation import installation_of
from celery_dynprio.tracing.context import Deferred, current_or_deferred, resume
from celery_dynprio.tracing.failure_report import log_failure, reporting_by
from celery_dynprio.tracing.runs import span_of_headers
from celery_dynprio.tracing.span import Span


class Traced:
    """What is added to the class of a worker's requests.

    ``span_scale`` is how the broker numbers the levels, None if it has none.
    """

    # Celery's Request has slots; a base with more than that could not be laid out with them.
    __slots__ = ()

    span_scale: Scale | None = None
    reported = False

    def on_timeout(self: Any, soft: bool, timeout: float) -> None:  # noqa: FBT001 - Celery's signature
        """Report a hard time limit; a soft one is an exception in the task."""
        with self.in_span() as span:
            try:
                super().on_timeout(soft, timeout)  # type: ignore[misc]
            finally:  # also where the result backend is away
                # In a cold shutdown Celery records no failure either: the message goes back.
                if not soft and not state.should_terminate:
                    self.report(span, TimeLimitExceeded(timeout))

    def on_failure(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Let Celery tell of a lost process by ``task_failure``, which it sends here."""
        with self.in_span():
            return super().on_failure(*args, **kwargs)  # type: ignore[misc]

    def revoked(self: Any) -> bool:
        """Let a task that was revoked while it waited for its time be discarded in its trace."""
        if current_or_deferred() is not None:
            return bool(super().revoked())  # type: ignore[misc]
        with Deferred(lambda _: self.span_of_message()):  # asked of each message, and hardly any is revoked
            return bool(super().revoked())  # type: ignore[misc]

    def _announce_revoked(self: Any, reason: str, terminated: bool, signum: object, *args: Any) -> None:  # noqa: FBT001
        with self.in_span() as span:
            try:
                super()._announce_revoked(reason, terminated, signum, *args)  # type: ignore[misc]
            finally:
                # That signal is the soft time limit's: it is an exception in the task, which tells of itself.
                if terminated and self.time_start and signum != signal.SIGUSR1:
                    self.report(span, Terminated("revoked while it ran"), state=REVOKED)
                elif not terminated:
                    self._record(REVOKED, span, TaskRevokedError(reason))

    def report(
        self: Any, span: Span, exc: BaseException, trace: TracebackType | str | None = None, state: str = FAILURE
    ) -> None:
        """Report and record once, however many ways Celery has to say it."""
        if not self.reported:
            self.reported = True
            log_failure(span, exc, trace)
            self._record(state, span, exc)

    def _record(self: Any, state: str, span: Span, exc: BaseException) -> None:
        installation = installation_of(self.task.app)
        if installation is not None:
            installation.recorder.record(state, span, self.request_dict, exc)

    @contextmanager
    def in_span(self: Any) -> Iterator[Span]:
        """Make the span of the message current, and this request the one to report by."""
        span = self.span_of_message()
        with resume(span), reporting_by(self.report):
            yield span

    def span_of_message(self: Any) -> Span:
        """The span of the message, which is also that of its run."""
        return span_of_headers(
            self.request_dict,
            self.delivery_info,
            scale=self.span_scale,
            host=self.hostname,
            started=self.time_start,
        )


@functools.cache
def traced_request(base: type, scale: Scale | None) -> type:
    """A class of requests that is as ``base`` but for its traces; ``base`` itself if it has them already."""
    return base if issubclass(base, Traced) else type(base.__name__, (Traced, base), {"span_scale": scale})
