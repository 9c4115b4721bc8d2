"""What workers log: the fields on each record, and one report for each task that fails for good."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import pytest

from celery_dynprio import tracing
from tests.conftest import MakeProject, StartCelery, StartWorker
from tests.processes import wait_until
from tests.servers import Database

BODY: Final = """
    import logging, logging.config, os, signal, time
    from celery import signals
    from celery.exceptions import Ignore, Reject
    from celery.utils.log import get_task_logger
    from celery_dynprio import DynPrio, dynprio_task
    app.conf.update(dynprio_embedded=False, dynprio_log_format=os.environ.get("FORMAT"))
    OWN = {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"trace": {"()": "celery_dynprio.logs.TraceFilter"}},
        "formatters": {"own": {"format": "own|%(name)s|%(trace_id)s|%(task_name)s|%(level)s|%(message)s"}},
        "handlers": {"own": {"class": "logging.StreamHandler", "filters": ["trace"], "formatter": "own"}},
        "root": {"handlers": ["own"], "level": "INFO"},
    }
    if os.environ.get("OWN") == "no hijack":
        app.conf.worker_hijack_root_logger = False
        logging.config.dictConfig(OWN)
    if os.environ.get("OWN") == "signal":
        signals.setup_logging.connect(lambda **_: logging.config.dictConfig(OWN), weak=False)
    dynprio = DynPrio(app)

    @dynprio_task(app=app, weight=5)
    def parent(name):
        logging.getLogger("a.library").warning("of a library")
        app.signature(name).delay()

    @app.task
    def broken():
        raise ValueError("no\\ntotal")

    @app.task
    def killed():
        os.kill(os.getpid(), signal.SIGKILL)

    @app.task(time_limit=1)
    def hanging():
        time.sleep(60)

    @app.task(soft_time_limit=1)
    def slow():
        time.sleep(60)

    @app.task(bind=True, max_retries=1)
    def retried(self):
        raise self.retry(exc=KeyError("no such thing"), countdown=0)

    @app.task
    def chatty():
        logging.getLogger("a.library").warning("of a library")
        get_task_logger("shop").warning("of the task")

    @app.task(acks_late=True)
    def rejected():
        raise Reject("no", requeue=False)

    @app.task
    def ignored():
        raise Ignore

    @app.task
    def long():
        logging.getLogger("a.library").warning("long began")
        time.sleep(60)
"""

#: A trace that somebody else began.
TRACE: Final = "0af7651916cd43dd8448eb211c80319c"
HEADERS: Final = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}


def under_trace(module: Any, name: str) -> None:
    """Run the parent, which publishes the task of this name."""

    with tracing.use(HEADERS["traceparent"]):
        module.parent.delay(f"{module.__name__}.{name}")


def test_each_line_of_a_task_has_its_fields(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker
) -> None:
    project = make_project(valkey.url, BODY, env={"FORMAT": "json"})
    worker = start_worker(project, pool="prefork")
    under_trace(project.load(), "broken")
    for last in ("failed for good", "raised unexpected", "succeeded"):  # in no order: two processes write them
        worker.wait_for_log(last)
    records = [json.loads(line) for line in worker.logs().splitlines() if line.startswith("{")]
    ours = [record for record in records if record["trace_id"] == TRACE]
    for task in ("parent", "broken"):
        lines = [record for record in ours if record["task_name"].endswith(task)]
        said = [record["message"] for record in lines]
        assert any(message.endswith("received") for message in said)
        assert any("succeeded" in message if task == "parent" else "raised unexpected" in message for message in said)
        assert len({record["span_id"] for record in lines}) == 1
        assert {record["queue"] for record in lines} == {"celery"}
    (library,) = (record for record in ours if record["message"] == "of a library")
    assert library["level"] in range(10)
    assert library["wait"] >= 0
    outside = [record for record in records if record["trace_id"] == ""]
    assert any(" ready." in record["message"] for record in outside)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("broken", "ValueError: no total"),
        ("killed", "WorkerLostError: "),
        ("hanging", "TimeLimitExceeded: "),
        ("slow", "SoftTimeLimitExceeded: "),
        ("retried", "KeyError: 'no such thing'"),
    ],
)
def test_a_failure_is_told_once_with_all_that_led_to_it(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker, task: str, said: str
) -> None:
    project = make_project(valkey.url, BODY)
    worker = start_worker(project, pool="prefork")
    module = project.load()
    under_trace(module, task)
    wait_until(lambda: f".{task}[" in worker.logs() and "failed for good" in worker.logs(), 60, "it is reported")
    module.parent.delay(
        f"{module.__name__}.broken"
    )  # a report that comes later, by which any second one would be there
    wait_until(lambda: worker.logs().count("failed for good") >= 2, 60, "the other one is reported")
    lines = worker.logs().splitlines()
    (report,) = (
        number
        for number, line in enumerate(lines)
        if f".{task}[" in line and f"failed for good in trace {TRACE}" in line
    )
    assert said in lines[report]
    first, second = lines[report + 1 : report + 3]
    assert f"{module.__name__}.parent[" in first
    assert f"on {worker.hostname()}, P" in first
    assert ", ran " in first
    assert f"{module.__name__}.{task}[" in second


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ("SIGTERM", "Terminated: revoked while it ran"),
        ("SIGKILL", "Terminated: revoked while it ran"),
        ("SIGUSR1", "SoftTimeLimitExceeded: "),  # the signal of the soft time limit, which the task itself tells of
    ],
)
def test_a_task_that_is_revoked_while_it_runs_is_told_once(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker, sent: str, said: str
) -> None:
    project = make_project(valkey.url, BODY)
    worker = start_worker(project, pool="prefork")
    module = project.load()
    with tracing.use(HEADERS["traceparent"]):
        result = module.long.delay()
    worker.wait_for_log("long began")
    result.revoke(terminate=True, signal=sent)
    worker.wait_for_log("failed for good")
    module.broken.delay()  # a report that comes later, by which any second one would be there
    worker.wait_for_log("ValueError: no total")
    (report,) = (line for line in worker.logs().splitlines() if ".long[" in line and "failed for good" in line)
    assert f".long[{result.id}] failed for good in trace {TRACE}: {said}" in report


def test_what_a_task_decides_is_no_failure(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker
) -> None:
    project = make_project(valkey.url, BODY)
    worker = start_worker(project, pool="prefork", concurrency=1)
    module = project.load()
    for task in (module.rejected, module.ignored, module.broken):
        task.delay()
    worker.wait_for_log("ValueError: no total")
    (report,) = (line for line in worker.logs().splitlines() if "failed for good" in line)
    assert ".broken[" in report


def check_text(module: Any, log: Callable[[], str]) -> None:
    """Run a task, and look at each line that the worker writes of it."""
    with tracing.use(HEADERS["traceparent"]):
        result = module.chatty.apply_async(priority=6)
    wait_until(lambda: f"{result.id}] succeeded" in log())
    lines = [line for line in log().splitlines() if result.id in line]
    assert len(lines) == 4  # received, of the library, of the task, succeeded
    for line in lines:
        assert f"trace={TRACE} " in line
        assert f"task={module.chatty.name}[{result.id}] queue=celery P6" in line
    assert [" waited " in line for line in lines] == [False, True, True, True]


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_the_text_format_names_trace_task_and_level_in_each_line(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker, pool: str
) -> None:
    project = make_project(valkey.url, BODY, env={"FORMAT": "text"})
    worker = start_worker(project, pool=pool)
    check_text(project.load(), worker.logs)


def test_a_log_file_is_formatted_too(valkey: Database, make_project: MakeProject, start_celery: StartCelery) -> None:
    project = make_project(valkey.url, BODY, env={"FORMAT": "text"})
    log = project.directory / "own.log"
    start_celery(project, "worker", "-c1", "-lINFO", "-f", str(log))
    wait_until(lambda: log.exists() and " ready." in log.read_text())
    check_text(project.load(), log.read_text)


@pytest.mark.parametrize("own", ["no hijack", "signal"])
def test_a_logging_setup_of_one_s_own_needs_one_line(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker, own: str
) -> None:
    project = make_project(valkey.url, BODY, env={"OWN": own})
    worker = start_worker(project, pool="prefork")
    module = project.load()
    with tracing.use(HEADERS["traceparent"]):
        module.chatty.apply_async(priority=6)
    worker.wait_for_log("succeeded")
    known = f"{TRACE}|{module.chatty.name}|6"
    assert f"own|a.library|{known}|of a library\n" in worker.logs()
    assert f"own|celery.worker.strategy|{known}|Task " in worker.logs()
    assert f"own|celery.app.trace|{known}|Task " in worker.logs()
    assert "Logging error" not in worker.logs()


def test_a_task_discarded_when_its_time_comes_is_in_its_trace(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker
) -> None:
    project = make_project(valkey.url, BODY, env={"FORMAT": "json"})
    worker = start_worker(project, pool="prefork")
    chatty = project.load().chatty

    def logged(what: str) -> bool:
        return re.search(what, worker.logs()) is not None

    for countdown in (5, 120):  # a machine that stands still may run it before it is revoked
        with tracing.use(HEADERS["traceparent"]):
            result = chatty.apply_async(countdown=countdown)
        wait_until(partial(logged, f"{result.id}. received"))
        result.revoke()
        wait_until(partial(logged, f"{result.id}. succeeded|Discarding revoked task"), 180)
        if logged("Discarding revoked task"):
            break
    (line,) = (line for line in worker.logs().splitlines() if "Discarding revoked task" in line)
    record = json.loads(line)
    assert (record["trace_id"], record["task_id"], record["queue"]) == (TRACE, result.id, "celery")
    assert "failed for good" not in worker.logs()


def test_hostile_headers_make_one_clean_line_each(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker
) -> None:
    project = make_project(valkey.url, BODY, env={"FORMAT": "text"})
    worker = start_worker(project, pool="prefork")
    module = project.load()
    hostile = "x\n[FORGED: ERROR/Main]\x1b[2J" + "y" * 1_000_000
    forged = [9, [[hostile, hostile, hostile, 1, 1.0, 1.0], [1, 2]], hostile]
    broken = module.broken
    headers = {"traceparent": hostile, "tracestate": hostile, "dynprio_lineage": forged}
    # Past the receivers that would mend what a task publishes.
    message = module.app.amqp.as_task_v2("1-2-3", broken.name)
    with module.app.producer_pool.acquire() as producer:
        producer.publish(
            message.body, routing_key="celery", headers={**message.headers, **headers}, **message.properties
        )
    worker.wait_for_log("failed for good")
    worker.wait_for_log("raised unexpected")
    lines = worker.logs().splitlines()
    assert not [line for line in lines if line.startswith("[FORGED")]
    assert not [line for line in lines if "\x1b" in line]
    (first,) = (number for number, line in enumerate(lines) if "failed for good" in line)
    assert r"x\n[FORGED: ERROR/Main]\x1b[2Jyy" in lines[first + 1]
    assert max(map(len, lines)) < 2_000
