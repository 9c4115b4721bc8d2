"""What workers log: the fields on each record, and one report for each task that fails for good."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from celery_dynprio import tracing
from tests.conftest import MakeProject, StartWorker
from tests.processes import wait_until
from tests.servers import Database

BODY: Final = """
    import logging, os, signal, time
    from celery_dynprio import DynPrio, dynprio_task
    app.conf.update(dynprio_embedded=False, dynprio_log_format=os.environ.get("FORMAT"))
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
    worker.wait_for_log("ValueError")
    wait_until(lambda: "failed for good" in worker.logs())
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


def test_a_task_that_is_revoked_while_it_runs_is_told(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker
) -> None:
    project = make_project(valkey.url, BODY)
    worker = start_worker(project, pool="prefork")
    result = project.load().long.delay()
    worker.wait_for_log("long began")
    result.revoke(terminate=True, signal="SIGKILL")
    worker.wait_for_log("failed for good")
    assert worker.logs().count("failed for good") == 1
    assert "revoked while it ran" in worker.logs()
