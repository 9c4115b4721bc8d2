"""The worker's parent process: what it logs of a message has the trace of that message, and what it ends is reported.

Requests are changed in the consumer, so that nothing but a worker imports ``celery.worker``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import bootsteps
from kombu.utils.imports import symbol_by_name

from celery_dynprio.levels import Scale
from celery_dynprio.ports.installation import installation_of
from celery_dynprio.tracing.context import Deferred
from celery_dynprio.tracing.runs import span_of_headers
from celery_dynprio.tracing.span import Span
from celery_dynprio.worker.requests import traced_request


class TraceReceived(bootsteps.StartStopStep):
    """Step of a worker's consumer that gives traces to its requests, and to what it does when it takes a message in."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        """Change the tasks' requests before the step that this one requires makes its strategies of them."""
        super().__init__(parent, **kwargs)
        installation = installation_of(parent.app)
        self._scale = None if installation is None else installation.scale
        for task in parent.app.tasks.values():
            task.Request = traced_request(symbol_by_name(task.Request), self._scale)

    def start(self, parent: Any) -> None:
        """Wrap the strategies, which are made anew with each connection."""
        for name, handle in parent.strategies.items():
            parent.strategies[name] = _traced(handle, self._scale, parent.hostname)


def _traced(handle: Callable[..., Any], scale: Scale | None, host: str) -> Callable[..., Any]:
    def traced(message: Any, payload: Any, *args: Any, **kwargs: Any) -> Any:
        def span(_: Deferred) -> Span:
            # As Celery's Request does: the priority is no part of what the transport says of the delivery.
            delivery = {**(message.delivery_info or {}), "priority": (message.properties or {}).get("priority")}
            # The payload is decoded for task protocol 1 only.
            headers = {**payload, **message.headers} if isinstance(payload, dict) else message.headers
            return span_of_headers(headers, delivery, scale=scale, host=host)

        with Deferred(span):
            return handle(message, payload, *args, **kwargs)

    return traced
