"""What producers really send, and what canvas, retries and subtasks make of it in real workers."""

from __future__ import annotations

import time
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from kombu import Producer

from celery_dynprio import DynPrio
from tests.apps import make_app
from tests.conftest import MakeProject, StartCelery, StartWorker
from tests.messages import pending
from tests.nodes import Project
from tests.processes import wait_until
from tests.servers import Database

BODY = """
    from celery import chain, chord, group
    from celery_dynprio import Dependents, DynPrio, DynPrioTask, Weight, dynprio_task

    app.conf.update(dynprio_policy=1 * Weight() + 1 * Dependents(saturation=4), dynprio_embedded=False)
    dynprio = DynPrio(app)

    def told(task):
        return {"header": task.request.get("dynprio"), "priority": task.request.delivery_info["priority"]}

    @app.task(bind=True)
    def tell(self, *_):
        return told(self)

    @dynprio_task(app=app, bind=True, weight=3, key="tenant")
    def tell_declared(self, tenant):
        return told(self)

    @app.task(bind=True, default_retry_delay=0)
    def tell_again(self):
        if not self.request.retries:
            raise self.retry()
        return told(self)

    @app.task(bind=True, autoretry_for=(ZeroDivisionError,), retry_kwargs={"countdown": 0})
    def tell_after_error(self):
        if not self.request.retries:
            1 / 0
        return told(self)

    @dynprio_task(app=app, bind=True, weight=1, base=DynPrioTask)
    def tell_by_another(self):
        raise self.replace(tell_declared.s("acme").set(dynprio={"key": "other"}))

    @app.task
    def parent(canvas):
        return CANVAS[canvas]().apply_async().id

    CANVAS = {
        "task": tell.s,
        "declared": lambda: tell_declared.s("acme"),
        "chain": lambda: tell.si() | tell.si(),
        "group": lambda: group(tell.si(), tell.si()),
        "chord": lambda: chord([tell.si(), tell.si()], tell.si()),
    }
"""


@pytest.fixture
def project(valkey: Database, make_project: MakeProject) -> Project:
    return make_project(valkey.url, BODY)


@pytest.fixture
def app(project: Project) -> Celery:
    return project.app


def header(message: dict[str, Any]) -> dict[str, Any]:
    """The header without the time of publishing, which has just been."""
    fields: dict[str, Any] = message["headers"]["dynprio"]
    assert abs(time.time() - fields["at"]) < 60
    return {field: value for field, value in fields.items() if field != "at"}


def test_a_message_lies_in_the_list_of_its_level(project: Project, valkey: Database) -> None:
    module = project.load()
    module.tell_declared.apply_async(("acme",), dynprio={"deadline": 60}, headers={"mine": 1})
    (message,) = pending(valkey.client)
    due = message["headers"]["dynprio"]["due"]
    assert header(message) == {"w": 3, "key": "acme", "due": due}
    assert due == message["headers"]["dynprio"]["at"] + 60
    assert message["headers"]["mine"] == 1
    assert message["properties"]["priority"] == 6
    assert "dynprio" not in message["properties"]
    assert valkey.client.llen("celery\x06\x166") == 1


def test_every_way_of_calling(project: Project, valkey: Database) -> None:
    module = project.load()
    signature = module.tell.s().set(dynprio={"weight": 8})
    module.tell.apply_async(dynprio={"weight": 8})
    module.app.send_task(module.tell.name, dynprio={"weight": 8})
    module.app.send_task("elsewhere.known", dynprio={"weight": 8})
    signature.delay()
    signature.clone().apply_async()
    group(signature, signature).apply_async()
    group(module.tell.s(), module.tell.s()).apply_async(dynprio={"weight": 8})
    module.app.signature(dict(signature)).delay()
    messages = pending(valkey.client)
    assert [header(message) for message in messages] == [{"w": 8}] * 10
    assert {message["properties"]["priority"] for message in messages} == {3}


def test_the_task_at_the_head_of_a_chain_or_chord_knows_who_waits(project: Project, valkey: Database) -> None:
    module = project.load()
    chain(module.tell.si().set(dynprio={"weight": 8}), module.tell.si(), module.tell.si()).apply_async()
    (first,) = pending(valkey.client)
    assert (header(first), first["properties"]["priority"]) == ({"w": 8, "n": 2}, 3)
    valkey.client.flushdb()
    chord([module.tell.si(), module.tell.si(), module.tell.si()], module.tell.si()).apply_async()
    assert [header(message) for message in pending(valkey.client)] == [{"n": 1}] * 3
    valkey.client.flushdb()
    (module.tell.si() | module.tell.si()).apply_async(priority=9)
    (pinned,) = pending(valkey.client)
    assert (header(pinned), pinned["properties"]["priority"]) == ({"n": 1, "pin": 9}, 9)


def test_other_queues_get_plain_messages(project: Project, valkey: Database) -> None:
    project.load().tell.apply_async(queue="other", dynprio={"weight": 8})
    (message,) = pending(valkey.client, "other")
    assert "dynprio" not in message["headers"]
    assert message["properties"]["priority"] == 0


def test_after_uninstalling_messages_are_plain(project: Project, valkey: Database) -> None:
    module = project.load()
    module.dynprio.uninstall()
    module.tell.delay()
    (message,) = pending(valkey.client)
    assert "dynprio" not in message["headers"]
    assert message["properties"]["priority"] == 0


def nothing() -> None: ...


def test_a_default_priority_of_a_plain_producer_is_nobodys_choice(valkey: Database) -> None:
    plain, ours = make_app(valkey.url), make_app(valkey.url)
    for app in (plain, ours):
        app.conf.update(task_default_priority=5)
        app.task(nothing, name="usual", shared=False)
        app.task(nothing, name="chosen", shared=False).priority = 7
    dynprio = DynPrio(ours)
    for app in (plain, ours):
        app.tasks["usual"].delay()
        app.tasks["usual"].apply_async(priority=3)
        app.tasks["chosen"].delay()
    pins = sorted((each.task.name, str(each.task.pinned)) for each in dynprio.pending().turns)
    assert pins == [("chosen", "7")] * 2 + [("usual", "3")] * 2 + [("usual", "None")] * 2


def result(app: Celery, task_id: str) -> Any:
    return app.AsyncResult(task_id).get(timeout=30)


def fields(told: dict[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in told["header"].items() if field not in {"at", "first"}}


GIVEN = {"weight": 8, "key": "mine", "deadline": 1000}


def test_subtasks_in_workers_inherit(project: Project, app: Celery, start_worker: StartWorker) -> None:
    start_worker(project, pool="solo")
    module = project.load()
    sent = time.time()

    def child(canvas: str, **options: Any) -> Any:
        child_id = module.parent.apply_async((canvas,), dynprio=GIVEN, **options).get(timeout=30)
        return result(app, child_id)

    task = child("task")
    due = task["header"]["due"]
    assert (fields(task), task["priority"]) == ({"w": 8, "key": "mine", "due": due}, 3)
    assert sent + 999 < due < time.time() + 1000
    assert "pin" not in child("task", priority=0)["header"], "a pin is not inherited"
    declared = child("declared")["header"]
    assert (declared["w"], declared["key"]) == (3, "acme")
    for canvas in ("chain", "chord"):
        last = child(canvas)
        assert (last["header"]["w"], last["header"]["key"]) == (8, "mine"), canvas
    spawned = module.parent.apply_async(("group",), dynprio=GIVEN)
    spawned.get(timeout=30)
    for told in spawned.children[0].get(timeout=30):
        assert (told["header"]["w"], told["header"]["key"]) == (8, "mine")


def test_retries_and_replacements_keep_what_they_had(project: Project, app: Celery, start_worker: StartWorker) -> None:
    start_worker(project, pool="solo")
    module = project.load()
    for task in (module.tell_again, module.tell_after_error):
        kept = result(app, task.apply_async(dynprio=GIVEN).id)
        assert (kept["header"]["w"], kept["header"]["key"], kept["priority"]) == (8, "mine", 3)
        assert "pin" not in kept["header"]
        assert kept["header"]["first"] < kept["header"]["at"], "its first try was published before"
        pinned = result(app, task.apply_async(priority=6).id)
        assert (fields(pinned), pinned["priority"]) == ({"pin": 6}, 6)
    replaced = result(app, module.tell_by_another.apply_async(dynprio=GIVEN).id)
    assert (replaced["header"]["w"], replaced["header"]["key"], replaced["priority"]) == (8, "other", 3)


@pytest.mark.skipif(not hasattr(Producer, "batch"), reason="kombu sends batches from 5.7 on")
def test_a_batch_of_kombu_s_is_placed_task_by_task(valkey: Database, project: Project, app: Celery) -> None:
    module = project.load()
    heavy = module.tell.s().set(dynprio={"weight": 10})
    parts = group([*(module.tell_declared.s(tenant) for tenant in ("acme", "globex", "acme")), heavy], app=app)
    with app.producer_or_acquire() as producer, producer.batch():
        sent = parts.apply_async(producer=producer)
        assert pending(valkey.client) == []
    told = {each["headers"]["id"]: header(each) for each in pending(valkey.client)}
    assert [told[each.id] for each in sent.results] == [
        {"w": 3, "key": "acme"},
        {"w": 3, "key": "globex"},
        {"w": 3, "key": "acme"},
        {"w": 10},
    ]
    levels = [each["properties"]["priority"] for each in pending(valkey.client)]
    assert len(set(levels)) == 2


def test_links_inherit(project: Project, app: Celery, start_worker: StartWorker) -> None:
    start_worker(project, pool="solo")
    module = project.load()
    link = module.tell.si()
    linked = link.freeze()
    module.tell.apply_async(link=link, dynprio=GIVEN).get(timeout=30)
    assert result(app, linked.id)["header"]["w"] == 8


def test_celerys_inherited_priority_does_not_pin(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker
) -> None:
    project = make_project(valkey.url, BODY, conf={"task_inherit_parent_priority": True})
    start_worker(project, pool="solo")
    module = project.load()
    for canvas in ("task", "chain"):
        told = result(project.app, module.parent.apply_async((canvas,), dynprio=GIVEN).get(timeout=30))
        assert (told["header"]["w"], told["priority"]) == (8, 3)
        assert "pin" not in told["header"]


def test_beat_entries_carry_options(
    valkey: Database, make_project: MakeProject, start_celery: StartCelery, tmp_path: Any
) -> None:
    body = """
    app.conf.beat_schedule = {
        "often": {"task": app.main + ".tell", "schedule": 0.2, "options": {"dynprio": {"weight": 8, "key": "beat"}}},
        # As django-celery-beat stores it: a PeriodicTask has headers, and no other options of ours.
        "stored": {
            "task": app.main + ".tell_declared", "schedule": 0.2, "args": ["acme"],
            "options": {"headers": {"dynprio": {"weight": 8, "key": "beat"}, "periodic_task_name": "stored"}},
        },
    }
    """
    project = make_project(valkey.url, BODY + body)
    start_celery(project, "beat", "--schedule", str(tmp_path / "schedule"))
    wait_until(lambda: len({each["headers"]["task"] for each in pending(valkey.client)}) > 1)
    assert [header(each) for each in pending(valkey.client) if header(each) != {"w": 8, "key": "beat"}] == []


@pytest.mark.parametrize("command", [["worker", "--pool", "solo"], ["beat"]])
def test_wrong_settings_stop_the_start(
    valkey: Database, make_project: MakeProject, start_celery: StartCelery, command: list[str]
) -> None:
    project = make_project(valkey.url, BODY + "    app.conf.dynprio_windw = 5\n")
    node = start_celery(project, *command)
    assert node.wait(60) != 0
    assert "dynprio_windw = 5: no such setting; did you mean dynprio_window?" in node.logs()


def test_a_worker_on_another_broker_runs_as_plain_celery(make_project: MakeProject, start_worker: StartWorker) -> None:
    project = make_project("memory://localhost/", BODY, backend="cache+memory://")
    worker = start_worker(project, pool="solo")
    assert worker.logs().count("is no Redis: tasks in celery are run as plain Celery runs them") == 1
    assert "Traceback" not in worker.logs()
