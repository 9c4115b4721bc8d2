"""The fields on log records and the formats that show them, without a worker."""

from __future__ import annotations

import json
import logging
import logging.config
import sys
from io import StringIO
from typing import Any, Final

import pytest
from celery import Celery, signals
from celery.app.log import TaskFormatter

from celery_dynprio import logs, tracing
from celery_dynprio.errors import SettingError
from celery_dynprio.logs import FIELDS, TextFormatter, TraceFilter, add_trace, fields_of, json_formatter
from celery_dynprio.settings import Settings
from celery_dynprio.tracing import Span
from celery_dynprio.tracing.runs import span_of_headers

SPAN: Final = Span("a" * 32, "b" * 16, "c" * 16, task_id="1-2", task_name="shop.a", queue="q", level=3, wait=1.23456)

EXPECTED: Final = {
    "trace_id": "a" * 32,
    "span_id": "b" * 16,
    "parent_span_id": "c" * 16,
    "task_id": "1-2",
    "task_name": "shop.a",
    "queue": "q",
    "level": 3,
    "wait": 1.235,
}


@pytest.fixture
def written() -> StringIO:
    return StringIO()


@pytest.fixture
def logger(written: StringIO) -> logging.Logger:
    """A logger as Celery sets one up."""
    made = logging.Logger("of a test")  # noqa: LOG001 - pytest adds its own handlers to one of getLogger
    made.addHandler(logging.StreamHandler(written))
    return made


def fields_on(record: logging.LogRecord) -> dict[str, Any]:
    return {name: vars(record)[name] for name in FIELDS}


def record(**extra: object) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": "said", "levelname": "INFO", **extra})


def test_a_record_of_a_task_has_all_fields() -> None:
    made = record()
    with tracing.resume(SPAN):
        assert TraceFilter().filter(made)
    assert fields_on(made) == EXPECTED


def test_outside_of_tasks_the_fields_are_there_and_empty() -> None:
    made = record()
    assert TraceFilter().filter(made)
    assert fields_on(made) == dict.fromkeys(FIELDS, "")


def test_what_is_not_known_is_empty() -> None:
    assert fields_of(Span("a" * 32, "b" * 16)) == {
        **dict.fromkeys(FIELDS, ""),
        "trace_id": "a" * 32,
        "span_id": "b" * 16,
    }


def test_level_0_and_no_wait_are_not_empty() -> None:
    fields = fields_of(Span("a" * 32, "b" * 16, level=0, wait=0.0))
    assert (fields["level"], fields["wait"]) == (0, 0.0)


def test_a_record_keeps_its_fields_in_another_thread_s_handler() -> None:
    made = record()
    with tracing.resume(SPAN):
        TraceFilter().filter(made)
    TraceFilter().filter(made)  # as a QueueListener's handler does, where nothing is current
    assert fields_on(made) == EXPECTED


def test_a_library_s_own_trace_id_does_not_hide_the_other_fields() -> None:
    made = record(trace_id="theirs")
    TraceFilter().filter(made)
    assert fields_on(made) == {**dict.fromkeys(FIELDS, ""), "trace_id": "theirs"}
    with tracing.resume(SPAN):
        TraceFilter().filter(made)
    assert fields_on(made) == EXPECTED


def test_the_text_format_tells_what_is_known_and_the_trace_behind_each_line() -> None:
    made = record(msg="one\ntwo")
    with tracing.resume(SPAN):
        TraceFilter().filter(made)
    first, second = TextFormatter().format(made).splitlines()
    assert first.endswith(
        f": INFO/MainProcess] one (trace={'a' * 32} span={'b' * 16} task=shop.a[1-2] queue=q P3 waited 1.235 s)"
    )
    assert second == f"two (trace={'a' * 32})"


def test_the_text_format_is_celery_s_outside_of_tasks() -> None:
    made = record()
    TraceFilter().filter(made)
    assert TextFormatter().format(made).endswith(": INFO/MainProcess] said")


def test_the_text_format_takes_a_record_that_met_no_filter() -> None:
    assert TextFormatter().format(record()).endswith("] said")


def test_the_json_format_is_one_object_a_line() -> None:
    made = record(msg="one\ntwo")
    with tracing.resume(SPAN):
        TraceFilter().filter(made)
    line = json_formatter().format(made)
    told = json.loads(line)
    assert "\n" not in line
    assert {name: told[name] for name in FIELDS} == EXPECTED
    assert (told["message"], told["levelname"]) == ("one\ntwo", "INFO")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_hostile_headers_stay_in_one_line(log_format: str) -> None:
    hostile = "x\nERROR forged\r\x1b[2J\u2028" + "y" * 1_000_000
    headers = {
        "id": hostile,
        "task": hostile,
        "traceparent": hostile,
        "tracestate": hostile,
        "dynprio_lineage": hostile,
    }
    made = record()
    with tracing.resume(span_of_headers(headers, {"routing_key": hostile}, host=hostile)):
        TraceFilter().filter(made)
    line = (TextFormatter() if log_format == "text" else json_formatter()).format(made)
    assert line.isprintable()
    assert len(line) < 2_000


def test_json_without_python_json_logger_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pythonjsonlogger.json", None)
    with pytest.raises(SettingError, match=r"pip install \"python-json-logger>=3.1\""):
        json_formatter()


def test_one_line_of_dictconfig_is_enough(written: StringIO) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logging.config.dictConfig(
            {
                "version": 1,
                "disable_existing_loggers": False,
                "filters": {"trace": {"()": "celery_dynprio.logs.TraceFilter"}},
                "formatters": {"own": {"format": "%(trace_id)s %(level)s %(message)s"}},
                "handlers": {
                    "own": {
                        "class": "logging.StreamHandler",
                        "stream": written,
                        "filters": ["trace"],
                        "formatter": "own",
                    }
                },
                "root": {"handlers": ["own"], "level": "INFO"},
            }
        )
        with tracing.resume(SPAN):
            logging.getLogger("a.library").warning("inside")
        logging.getLogger("a.library").warning("outside")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    assert written.getvalue().splitlines() == [f"{'a' * 32} 3 inside", "  outside"]


def test_structlog_gets_the_fields() -> None:
    with tracing.resume(SPAN):
        assert add_trace(None, "info", {"event": "said"}) == {"event": "said", **EXPECTED}


def test_structlog_s_own_level_stays() -> None:
    event: dict[str, Any] = {"event": "said", "level": "info"}
    with tracing.resume(SPAN):
        got = add_trace(None, "info", event)
    assert (got["level"], got["priority_level"], got["queue"]) == ("info", 3, "q")


def test_structlog_itself_shows_them() -> None:
    structlog = pytest.importorskip("structlog")
    events: list[dict[str, Any]] = []

    def keep(_logger: object, _method: str, event: dict[str, Any]) -> dict[str, Any]:
        events.append(dict(event))
        raise structlog.DropEvent

    logger = structlog.wrap_logger(None, processors=[structlog.stdlib.add_log_level, add_trace, keep])
    with tracing.resume(SPAN):
        logger.info("said")
    assert events == [{"event": "said", "priority_level": 3, **EXPECTED, "level": "info"}]


class Connected:
    """An app whose logging Celery sets up, with a format."""

    def __init__(self, log_format: str | None) -> None:
        self.app = Celery("plain", broker="memory://", set_as_current=False)
        self._settings = Settings(log_format=log_format)
        self.connections = logs.connections(self.app, lambda: self._settings)
        self.connections.connect()

    def set_up(self, logger: logging.Logger) -> None:
        for signal in (signals.after_setup_logger, signals.after_setup_task_logger):
            signal.send(sender=None, logger=logger)


@pytest.mark.parametrize(
    ("log_format", "formatter"), [(None, "NoneType"), ("text", "TextFormatter"), ("json", "JsonFormatter")]
)
def test_celery_s_handlers_get_filter_and_format(
    logger: logging.Logger, log_format: str | None, formatter: str
) -> None:
    connected = Connected(log_format)
    try:
        connected.set_up(logger)
    finally:
        connected.connections.disconnect()
    (handler,) = logger.handlers
    assert type(handler.formatter).__name__ == formatter
    assert [type(each) for each in handler.filters] == [TraceFilter]  # once, though both signals came


def test_celery_s_own_format_of_task_loggers_stays_as_it_is(logger: logging.Logger) -> None:
    connected = Connected(None)
    (handler,) = logger.handlers
    handler.setFormatter(TaskFormatter("%(task_name)s[%(task_id)s]: %(message)s"))
    try:
        connected.set_up(logger)
    finally:
        connected.connections.disconnect()
    made = record()
    handler.filter(made)
    assert handler.format(made) == "???[???]: said"
    assert vars(made)["trace_id"] == ""
    with tracing.resume(SPAN):
        made = record()
        handler.filter(made)
    assert handler.format(made) == "shop.a[1-2]: said"


def listeners(app: Celery) -> list[object]:
    """All that hear Celery set up logging, of every app of this process: other tests may have left some."""
    logger = logging.Logger("without handlers")  # noqa: LOG001 - as above
    answers = signals.after_setup_logger.send(sender=None, logger=logger)
    answers += signals.after_setup_task_logger.send(sender=None, logger=logger)
    answers += signals.import_modules.send(sender=app)
    return [receiver for receiver, _ in answers]


def test_a_disconnected_app_leaves_handlers_alone() -> None:
    others = listeners(Celery("other", broker="memory://", set_as_current=False))
    connected = Connected("text")
    assert len(listeners(connected.app)) == len(others) + 3
    connected.connections.disconnect()
    assert listeners(connected.app) == others


def test_a_worker_does_not_start_with_json_and_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pythonjsonlogger.json", None)
    connected = Connected("json")
    try:
        with pytest.raises(SettingError, match="python-json-logger"):
            connected.app.loader.import_default_modules()
    finally:
        connected.connections.disconnect()
