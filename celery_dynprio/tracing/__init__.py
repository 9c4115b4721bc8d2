"""Which task and trace the running code belongs to, in every thread, and the failure reports that follow from it."""

from __future__ import annotations

from celery_dynprio.tracing.context import (
    Ancestor,
    Executor,
    Span,
    current,
    describe,
    report,
    resume,
    use,
    wrap,
)

__all__ = ["Ancestor", "Executor", "Span", "current", "describe", "report", "resume", "use", "wrap"]
