"""Step of a worker's consumer: what it logs while it takes a message in has the trace of that message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import bootsteps

from celery_dynprio import tracing
from celery_dynprio.propagation import span_of_headers, steps_of


class TraceReceived(bootsteps.StartStopStep):
    """Wraps what the consumer calls for each message: one function for each task name."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, c: Any) -> None:
        """Wrap them; the step before this one makes them anew with each connection."""
        steps = steps_of(c.app, lambda: None)  # type: ignore[arg-type,return-value]
        for name, handle in c.strategies.items():
            c.strategies[name] = _traced(handle, steps, c.hostname)


def _traced(handle: Callable[..., Any], steps: Any, host: str) -> Callable[..., Any]:
    def traced(message: Any, *args: Any, **kwargs: Any) -> Any:
        span = span_of_headers(message.headers, message.delivery_info, steps=steps, host=host)
        with tracing.resume(span):
            return handle(message, *args, **kwargs)

    return traced
