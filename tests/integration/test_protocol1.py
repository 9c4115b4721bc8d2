"""Messages of task protocol 1, from an app that speaks it or from another language, are managed as any other."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery, chord

from celery_dynprio import DynPrio, Filter, Weight, dynprio_task
from celery_dynprio.brokers.redis.backlog import RedisBacklog
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.models import Move
from celery_dynprio.operators.fates import Answer
from tests.conftest import MakeProject, StartWorker
from tests.messages import pending
from tests.servers import Database


@pytest.fixture
def app(valkey: Database) -> Iterator[Celery]:
    app = Celery("protocol1", broker=valkey.url, backend=valkey.url, set_as_current=False)
    app.conf.update(task_protocol=1, dynprio_policy=1 * Weight(), task_serializer="json")
    DynPrio(app)

    @dynprio_task(app=app, shared=False, name="work", key="tenant")
    def work(tenant: str) -> None: ...

    yield app
    app.close()


def foreign(valkey: Database, name: str = "work", **fields: Any) -> str:
    """Publish as gocelery does: no header, no priority, and a correlation id that is not the task's id."""
    body = {"id": str(uuid4()), "task": name, "args": ["acme"], "kwargs": {}, "retries": 0, "eta": None, **fields}
    delivery = {"priority": 0, "routing_key": "celery", "exchange": "celery"}
    properties = {"body_encoding": "base64", "correlation_id": str(uuid4()), "reply_to": str(uuid4())}
    message = {
        "body": base64.b64encode(json.dumps(body).encode()).decode(),
        "headers": {},
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "properties": {**properties, "delivery_info": delivery, "delivery_mode": 2, "delivery_tag": str(uuid4())},
    }
    valkey.client.lpush("celery", json.dumps(message))
    return str(body["id"])


def test_our_own_are_placed_and_say_who_they_are(app: Celery, valkey: Database) -> None:
    task_id = app.tasks["work"].apply_async(("acme",), dynprio={"weight": 9}, countdown=60).id
    (message,) = pending(valkey.client)
    fields = message["headers"]["dynprio"]
    expected = {"w": 9, "key": "acme", "id": task_id, "task": "work", "eta": True}
    assert ({k: v for k, v in fields.items() if k != "at"}, message["properties"]["priority"]) == (expected, 0)
    assert "task" not in message["headers"]


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_our_own_are_steered_whatever_their_bodies_are_in(app: Celery, serializer: str) -> None:
    installed = DynPrio.of(app)
    assert installed is not None
    task_id = app.tasks["work"].apply_async(("acme",), serializer=serializer).id
    assert [each.task.name for each in installed.pending(Filter(key="acme")).turns] == ["work"]
    assert installed.hold(task_id).answer is Answer.DONE
    assert installed.release(task_id).answer is Answer.DONE


def test_those_of_others_are_found_moved_held_and_cancelled(app: Celery, valkey: Database) -> None:
    installed = DynPrio.of(app)
    assert installed is not None
    ids = [foreign(valkey) for _ in range(3)]
    assert {each.task.id for each in installed.pending().turns} == set(ids)
    assert installed.reprioritize(ids[0], weight=9).answer is Answer.DONE
    assert installed.hold(ids[1]).answer is Answer.DONE
    assert installed.cancel(ids[2]).answer is Answer.DONE
    assert app.AsyncResult(ids[2]).state == "REVOKED"
    (waiting,) = [each.task for each in installed.pending().turns if each.task.id == ids[0]]
    assert (waiting.weight, installed.explain(ids[0]).turn.task) == (9, waiting)
    assert installed.release(ids[1]).answer is Answer.DONE


def test_a_chord_whose_part_is_cancelled_fails(app: Celery) -> None:
    installed = DynPrio.of(app)
    assert installed is not None
    work = app.tasks["work"]
    result = chord([work.si("a"), work.si("b")], work.si("c")).apply_async()
    assert installed.cancel(result.parent[0].id).answer is Answer.DONE
    assert result.parent[0].state == "REVOKED"


BODY = """
    from celery_dynprio import DynPrio, Weight, tracing

    app.conf.update(task_protocol=PROTOCOL, dynprio_policy=1 * Weight(), dynprio_embedded=False)
    dynprio = DynPrio(app)

    def told(task):
        span = tracing.current()
        lineage = [each.name.rpartition(".")[2] for each in span.lineage]
        return task.request.get("dynprio"), lineage, span.attempt

    @app.task(bind=True, default_retry_delay=0)
    def again(self, *_):
        if not self.request.retries:
            raise self.retry()
        return told(self)

    @app.task
    def parent():
        return again.delay().id
"""


def test_workers_run_retry_and_trace_them_as_any_other(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker
) -> None:
    answers = []
    for protocol in (1, 2):
        project = make_project(valkey.url, f"    PROTOCOL = {protocol}\n" + BODY)
        worker = start_worker(project, name=f"worker{protocol}", pool="solo")
        module = project.load()
        child = module.parent.apply_async(dynprio={"weight": 8, "key": "acme"}).get(timeout=30)
        header, lineage, attempt = project.app.AsyncResult(child).get(timeout=30)
        answers.append((header["w"], header["key"], lineage, attempt))
        worker.kill()
    assert answers == [(8, "acme", ["parent"], 2)] * 2


def test_a_worker_runs_what_was_moved(valkey: Database, make_project: MakeProject, start_worker: StartWorker) -> None:
    project = make_project(valkey.url, "    PROTOCOL = 1\n" + BODY)
    task_id = foreign(valkey, f"{project.name}.again")
    client = RedisClient.from_app(project.app)
    backlog = RedisBacklog(client, "celery")
    (task,) = backlog.read(0.0).levels[0]
    backlog.apply([Move(task, 0, 3, 0.5, "score", {"w": 7})])
    client.close()
    start_worker(project, pool="solo")
    header, *_ = project.app.AsyncResult(task_id).get(timeout=30)
    assert (header["w"], header["id"]) == (7, task_id)
