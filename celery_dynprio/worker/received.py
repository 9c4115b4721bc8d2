"""The worker's parent process: what it logs of a message has the trace of that message, and what it ends is reported.

Celery sends no signal for all that happens there: 5.5 has none for a hard time limit, later versions have one.
``Task.Request`` is Celery's hook for it. It is taken in the consumer, so that nothing but a worker imports
``celery.worker``, and whatever Request a task has of its own is kept below ours.
"""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from billiard.exceptions import Terminated, TimeLimitExceeded
from celery import bootsteps
from celery.exceptions import TaskRevokedError
from celery.states import FAILURE, REVOKED
from celery.worker import state
from kombu.utils.imports import symbol_by_name

from celery_dynprio.levels import Scale
from celery_dynprio.producer.propagation import scale_of
from celery_dynprio.tracing import context as tracing
from celery_dynprio.tracing import failure_report as failures
from celery_dynprio.tracing.context import Span
from celery_dynprio.tracing.runs import span_of_headers
from celery_dynprio.worker.recorder import Recorder


class Traced:
    """What is added to the class of a worker's requests.

    ``span_scale`` is how the broker numbers the levels, None if it has none.
    """

    # Celery's Request has slots; a base with more than that could not be laid out with them.
    __slots__ = ()

    span_scale: Scale | None = None
    told = False

    def on_timeout(self: Any, soft: bool, timeout: float) -> None:  # noqa: FBT001 - Celery's signature
        """Report a hard time limit; a soft one is an exception in the task."""
        with self.in_span() as span:
            try:
                super().on_timeout(soft, timeout)  # type: ignore[misc]
            finally:  # also where the result backend is away
                # In a cold shutdown Celery records no failure either: the message goes back.
                if not soft and not state.should_terminate:
                    self.tell(span, TimeLimitExceeded(timeout))

    def on_failure(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Let Celery tell of a lost process by ``task_failure``, which it sends here."""
        with self.in_span():
            return super().on_failure(*args, **kwargs)  # type: ignore[misc]

    def revoked(self: Any) -> bool:
        """Let a task that was revoked while it waited for its time be discarded in its trace."""
        if tracing.spanned() is not None:
            return bool(super().revoked())  # type: ignore[misc]
        with tracing.Deferred(self.span_of_message):  # asked of each message, and hardly any is revoked
            return bool(super().revoked())  # type: ignore[misc]

    def _announce_revoked(self: Any, reason: str, terminated: bool, signum: object, *args: Any) -> None:  # noqa: FBT001
        with self.in_span() as span:
            try:
                super()._announce_revoked(reason, terminated, signum, *args)  # type: ignore[misc]
            finally:
                # That signal is the soft time limit's: it is an exception in the task, which tells of itself.
                if terminated and self.time_start and signum != signal.SIGUSR1:
                    self.tell(span, Terminated("revoked while it ran"), state=REVOKED)
                elif not terminated:
                    self._record(REVOKED, span, TaskRevokedError(reason))

    def tell(
        self: Any, span: Span, exc: BaseException, trace: TracebackType | str | None = None, state: str = FAILURE
    ) -> None:
        """Report and record once, however many ways Celery has to say it."""
        if not self.told:
            self.told = True
            failures.tell(span, exc, trace)
            self._record(state, span, exc)

    def _record(self: Any, state: str, span: Span, exc: BaseException) -> None:
        recorder = Recorder.of(self.task.app)
        if recorder is not None:
            recorder.told(state, span, self.request_dict, exc)

    @contextmanager
    def in_span(self: Any) -> Iterator[Span]:
        """Make the span of the message current, and this request the one to report by."""
        span = self.span_of_message()
        with tracing.resume(span), failures.told_by(self.tell):
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


class TraceReceived(bootsteps.StartStopStep):
    """Step of a worker's consumer that gives traces to its requests, and to what it does when it takes a message in."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        """Change the tasks' requests before the step that this one requires makes its strategies of them."""
        super().__init__(parent, **kwargs)
        self._scale = scale_of(parent.app, lambda: None)  # type: ignore[arg-type,return-value]
        for task in parent.app.tasks.values():
            task.Request = traced_request(symbol_by_name(task.Request), self._scale)

    def start(self, parent: Any) -> None:
        """Wrap the strategies, which are made anew with each connection."""
        for name, handle in parent.strategies.items():
            parent.strategies[name] = _traced(handle, self._scale, parent.hostname)


@functools.cache
def traced_request(base: type, scale: Scale | None) -> type:
    """A class of requests that is as ``base`` but for its traces; ``base`` itself if it has them already."""
    return base if issubclass(base, Traced) else type(base.__name__, (Traced, base), {"span_scale": scale})


def _traced(handle: Callable[..., Any], scale: Scale | None, host: str) -> Callable[..., Any]:
    def traced(message: Any, payload: Any, *args: Any, **kwargs: Any) -> Any:
        def span() -> Span:
            # As Celery's Request does: the priority is no part of what the transport says of the delivery.
            delivery = {**(message.delivery_info or {}), "priority": (message.properties or {}).get("priority")}
            # The payload is decoded for task protocol 1 only.
            headers = {**payload, **message.headers} if isinstance(payload, dict) else message.headers
            return span_of_headers(headers, delivery, scale=scale, host=host)

        with tracing.Deferred(span):
            return handle(message, payload, *args, **kwargs)

    return traced
