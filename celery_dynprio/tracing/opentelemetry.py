"""OpenTelemetry, where it is used: its active span, and blocks that join a trace. It is never imported from here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery_dynprio.tracing.span import Span


def is_idle() -> bool:
    """Whether no OpenTelemetry span is active, as far as can be seen without asking for it, which takes longer."""
    get: Any = getattr(sys.modules.get("opentelemetry.context"), "get_current", None)
    return get is None or not get()


def active_span() -> Span | None:
    """Return the active OpenTelemetry span; None if there is none, or OpenTelemetry is not imported."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    # While another thread still imports it, the module is there without its names.
    get: Any = getattr(trace, "get_current_span", None)
    if get is None:
        return None
    span = get()
    if span is trace.INVALID_SPAN:  # mostly, and quicker to see
        return None
    found = span.get_span_context()
    if not found.is_valid:
        return None
    state = found.trace_state.to_header() if found.trace_state else ""
    return Span(f"{found.trace_id:032x}", f"{found.span_id:016x}", flags=int(found.trace_flags), tracestate=state)


def active_kind() -> str:
    """Return the kind of the active OpenTelemetry span, such as ``CONSUMER``; "" if none is active and recorded."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    get: Any = getattr(trace, "get_current_span", None)
    return "" if get is None else str(getattr(getattr(get(), "kind", None), "name", ""))


@contextmanager
def joined(span: Span) -> Iterator[None]:
    """Let OpenTelemetry spans in this block join the span's trace, if OpenTelemetry is used."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    if getattr(trace, "use_span", None) is None:
        yield
        return
    active = active_span()
    if active is not None and active.span_id == span.span_id:
        yield
        return
    ids = int(span.trace_id, 16), int(span.span_id, 16)
    state = trace.TraceState.from_header([span.tracestate])
    context = trace.SpanContext(*ids, is_remote=True, trace_flags=trace.TraceFlags(span.flags), trace_state=state)
    with trace.use_span(trace.NonRecordingSpan(context), record_exception=False, set_status_on_exception=False):
        yield
