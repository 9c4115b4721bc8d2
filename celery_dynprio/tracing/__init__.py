"""Which task and trace the running code belongs to, in every thread, and the failure reports that follow from it."""

from __future__ import annotations

from celery_dynprio.tracing.context import current, resume, use
from celery_dynprio.tracing.executors import Executor, wrap
from celery_dynprio.tracing.failure_report import describe, report
from celery_dynprio.tracing.span import Ancestor, Span

__all__ = ["Ancestor", "Executor", "Span", "current", "describe", "report", "resume", "use", "wrap"]
