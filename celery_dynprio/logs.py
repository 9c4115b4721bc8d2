"""Trace fields on every log record, and two formats that show them.

If you set up logging yourself, add one line: ``{"()": "celery_dynprio.logs.TraceFilter"}`` as a filter of each handler
in ``dictConfig``, or :func:`add_trace` to structlog's processors.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Final

from celery import signals
from celery.app.log import TaskFormatter

from celery_dynprio.errors import SettingError
from celery_dynprio.hosting.signals import Connections
from celery_dynprio.tracing import Span, current

if TYPE_CHECKING:
    from celery import Celery

    from celery_dynprio.settings import Settings

#: The fields of each record; outside of tasks, all are "". ``level`` is the priority level, ``wait`` is in seconds.
FIELDS: Final = ("trace_id", "span_id", "parent_span_id", "task_id", "task_name", "queue", "level", "wait")

TEXT: Final = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"
JSON: Final = "%(asctime)s %(levelname)s %(name)s %(processName)s %(message)s"

_NOTHING: Final = dict.fromkeys(FIELDS, "")


def fields_of(span: Span | None) -> dict[str, Any]:
    """Return the fields of a record that is logged in this span."""
    if span is None:
        return dict(_NOTHING)
    return {  # spelled out, as each line that a worker logs of a task waits for it
        "trace_id": span.trace_id,
        "span_id": span.span_id,
        "parent_span_id": span.parent_span_id,
        "task_id": span.task_id,
        "task_name": span.task_name,
        "queue": span.queue,
        "level": "" if span.level is None else span.level,
        "wait": "" if span.wait is None else round(span.wait, 3),
    }


class TraceFilter(logging.Filter):
    """Adds the fields to each record of a handler, and lets all records pass."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields."""
        span = current()
        if span is None:
            # An earlier handler, in the thread that logged, or the caller's ``extra`` may have set them.
            for name in FIELDS:
                vars(record).setdefault(name, "")
        else:
            vars(record).update(fields_of(span))
        return True


class _TaskFilter(TraceFilter):
    """For Celery's own format of task loggers, in which an unknown task is ``???``."""

    def filter(self, record: logging.LogRecord) -> bool:
        super().filter(record)
        for name in ("task_id", "task_name"):
            vars(record)[name] = vars(record)[name] or "???"
        return True


class TextFormatter(logging.Formatter):
    """Celery's own format, with trace, task, level and wait where they are known."""

    def __init__(self) -> None:
        super().__init__(TEXT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Add the fields to the first line, and the trace to each further line, so that a grep finds all lines."""
        line = super().formatMessage(record)
        fields = {name: getattr(record, name, "") for name in FIELDS}
        if not fields["trace_id"]:
            return line
        parts = [f"trace={fields['trace_id']} span={fields['span_id']}"]
        if fields["task_id"]:
            parts.append(f"task={fields['task_name']}[{fields['task_id']}] queue={fields['queue']}")
        if fields["level"] != "":
            parts.append(f"P{fields['level']}")
        if isinstance(fields["wait"], float):
            parts.append(f"waited {fields['wait']:.3f} s")
        first, *rest = line.split("\n")
        return "\n".join((f"{first} ({' '.join(parts)})", *(f"{more} ({parts[0].split()[0]})" for more in rest)))


def json_formatter() -> logging.Formatter:
    """Return a formatter for one JSON object a line.

    Raises :class:`~celery_dynprio.errors.SettingError` without python-json-logger 3.1 or newer.
    """
    try:
        from pythonjsonlogger.json import JsonFormatter  # noqa: PLC0415 - an extra
    except ImportError:
        raise SettingError(
            "dynprio_log_format", "json", 'it needs a package: pip install "python-json-logger>=3.1"'
        ) from None
    names = " ".join(f"%({name})s" for name in FIELDS)
    formatter: logging.Formatter = JsonFormatter(f"{JSON} {names}")
    return formatter


def add_trace(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:  # noqa: ARG001
    """Add the fields to an event of structlog; place this processor after ``add_log_level``.

    If the event has a ``level``, structlog's name for the log level, ours becomes ``priority_level``.
    """
    fields = fields_of(current())
    if "level" in event:
        fields["priority_level"] = fields.pop("level")
    event.update(fields)
    return event


class _Setup:
    """Gives the handlers that Celery has set up their filter and format."""

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self._settings = settings

    def __call__(self, logger: logging.Logger | None = None, **_: Any) -> None:
        """Receive ``after_setup_logger`` and ``after_setup_task_logger``."""
        chosen = self._settings().log_format
        for handler in logger.handlers if logger is not None else ():
            if not any(isinstance(each, TraceFilter) for each in handler.filters):
                has_celerys_format = chosen is None and isinstance(handler.formatter, TaskFormatter)
                handler.addFilter(_TaskFilter() if has_celerys_format else TraceFilter())
            if chosen is not None:
                handler.setFormatter(json_formatter() if chosen == "json" else TextFormatter())

    def check(self, **_: Any) -> None:
        """Receive ``import_modules``, the only signal at a worker's start whose exceptions end the worker."""
        if self._settings().log_format == "json":
            json_formatter()


def connections(app: Celery, settings: Callable[[], Settings]) -> Connections:
    """Return what adds the fields to all that this app's processes log, if they start while it is connected."""
    setup = _Setup(settings)
    return Connections(
        "logs",
        app,
        (signals.after_setup_logger, setup, None),
        (signals.after_setup_task_logger, setup, None),
        (signals.import_modules, setup.check, app),
    )
