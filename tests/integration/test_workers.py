"""What workers are asked, over a real broker; the workers are real ones, or nodes that answer when a test wants it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from celery import Celery

from celery_dynprio.errors import NotPendingError
from celery_dynprio.operators.workers import Question, Running, Slots, Taker, Workers, answers, ask, takers
from tests.apps import make_app
from tests.conftest import MakeProject, StartWorker
from tests.processes import wait_until
from tests.servers import Database

BODY = """
    from celery_dynprio import DynPrio

    app.conf.update(dynprio_embedded=False)
    dynprio = DynPrio(app)
"""

QUEUES = Question("active_queues")


def waits(app: Celery) -> bool:
    """Whether the connection that the pool gives next waits for more answers, and so hears none to another question."""
    with app.connection_or_acquire() as connection:
        return bool(connection.default_channel._in_poll)


@contextmanager
def node(app: Celery, name: str, **commands: Callable[[], object]) -> Iterator[Any]:
    """What answers these commands as a worker does."""
    stop = threading.Event()
    handlers = {command: lambda _state, do=do, **_: do() for command, do in commands.items()}
    with app.connection() as connection:
        made = app.control.mailbox(connection).Node(name, state=None, handlers=handlers, channel=connection.channel())
        with made.listen(callback=made.handle_message):
            _drain(connection)  # it subscribes: what is asked before that, nobody hears
            thread = threading.Thread(target=_answer, args=(connection, stop))
            thread.start()
            try:
                yield made
            finally:
                stop.set()
                thread.join()


def _answer(connection: Any, stop: threading.Event) -> None:
    while not stop.is_set():
        _drain(connection)


def _drain(connection: Any) -> None:
    with suppress(TimeoutError):
        connection.drain_events(timeout=0.1)


@pytest.fixture
def app(valkey: Database) -> Iterator[Celery]:
    made = make_app(valkey.url)
    yield made
    made.close()


def test_nothing_waits_for_more_answers(make_project: MakeProject, valkey: Database, start_worker: StartWorker) -> None:
    project = make_project(valkey.url, BODY)
    module = project.load()
    operations: Any

    def heard() -> Mapping[str, int]:
        found: Workers = operations.stats().workers
        return found.slots

    with module.dynprio.operations() as operations:
        assert heard() == {}
        assert not waits(module.app), "nobody answered"
        worker = start_worker(project, pool="solo")
        wait_until(lambda: heard() == {worker.hostname(): 1})
        assert not waits(module.app)
        with pytest.raises(NotPendingError):
            operations.explain("nobody")
        assert not waits(module.app)
        module.app.control.inspect(timeout=0.1).ping()
        assert waits(module.app), "as it is after Celery's own question, so that this test can fail"


def test_a_late_answer_takes_no_others_place(app: Celery) -> None:
    asked, answered = threading.Event(), threading.Event()

    def late() -> str:
        assert asked.wait(60)
        return "late"

    def second() -> str:
        asked.set()
        assert answered.wait(60)
        return "second"

    with node(app, "slow@x", stats=late) as slow, node(app, "a@x", stats=lambda: "first", active_queues=second):
        reply = slow.reply

        def tell(*args: Any, **options: Any) -> None:
            reply(*args, **options)
            answered.set()

        slow.reply = tell
        assert answers(app, 4.0, "stats", QUEUES) == [{"a@x": "first"}, {"a@x": "second"}]
    assert not waits(app)


def test_answers_to_older_questions_are_not_kept(app: Celery) -> None:
    with node(app, "slow@x", stats=lambda: "old") as slow, node(app, "a@x", stats=lambda: "first"):
        reply = slow.reply
        slow.reply = lambda data, **options: reply(data, **{**options, "ticket": "of an older one"})
        assert answers(app, 1.0, "stats", QUEUES) == [{"a@x": "first"}, {}]
    assert not app.control.mailbox.unclaimed


def test_what_a_worker_cannot_answer_is_left_out(app: Celery) -> None:
    def broken() -> None:
        raise ValueError("broken")

    queues = [{"name": "celery"}]
    slots = {"pool": {"max-concurrency": 3}, "prefetch_count": 12}
    runs = [{"id": "one", "name": "shop.report", "time_start": 5.0}, {"id": "other", "name": 7}, "nonsense"]
    with (
        node(app, "well@x", stats=lambda: slots, active_queues=lambda: queues, active=lambda: runs),
        node(app, "half@x", stats=lambda: slots, active_queues=broken, active=lambda: 5),
        node(app, "broken@x", stats=broken, active_queues=lambda: queues),
        node(app, "other@x"),
    ):
        found = ask(app, 3.0)
    assert found == Workers(
        {"half@x": 3, "well@x": 3},
        {"well@x": frozenset({"celery"})},
        {"half@x": 12, "well@x": 12},
        {"half@x": [], "well@x": [Running("one", "shop.report", 5.0)]},
    )
    assert found.slots_for("celery") == 3


@pytest.mark.parametrize(("acks_late", "ahead"), [(False, 8), (True, 6)])
def test_what_a_worker_takes_ahead(app: Celery, acks_late: bool, ahead: int) -> None:  # noqa: FBT001 - a parameter
    app.conf.task_acks_late = acks_late
    stats = {"pool": {"max-concurrency": 2}, "prefetch_count": 8}
    with node(app, "w@1", stats=lambda: stats, active_queues=list, active=list):
        wait_until(lambda: ask(app).ahead == {"w@1": ahead})
        app.conf.worker_disable_prefetch = True
        assert ask(app, 2.0).ahead == {"w@1": 0}


@pytest.mark.parametrize(
    "given",
    [
        {"task_acks_late": True, "broker_transport_options": {"priority_steps": [0, 5]}},
        {"CELERY_TASK_ACKS_LATE": True, "CELERY_BROKER_TRANSPORT_OPTIONS": {"priority_steps": [0, 5]}},
        {
            "x_task_acks_late": True,
            "x_broker_transport_options": {"visibility_timeout": 7},
            "broker_transport_options": {"visibility_timeout": 7, "priority_steps": [0, 5]},
        },
    ],
)
def test_settings_of_workers_are_found_whatever_their_namespace(app: Celery, given: Mapping[str, Any]) -> None:
    with node(app, "w@1", conf=lambda: given, active_queues=lambda: [{"name": "celery"}]):
        wait_until(lambda: takers(app))
        taker, conf = takers(app)["w@1"]
    assert taker == Taker(frozenset({"celery"}), frozenset({0, 5}))
    assert conf["task_acks_late"] is True
    assert conf.keys() == {"task_acks_late", "broker_transport_options"}


def test_a_worker_that_is_asked_for_its_settings_logs_nothing(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker
) -> None:
    project = make_project(valkey.url, BODY)
    worker = start_worker(project)
    wait_until(lambda: takers(project.app))
    worker.wait_for_answer(project.app)
    assert "WARNING" not in worker.logs().partition("ready.")[2]


def test_slots_are_asked_for_in_the_background_and_again_when_they_are_old(app: Celery) -> None:
    slots = Slots(app, max_age=0.0)
    assert slots("celery") == 0, "nobody was heard yet"
    stats = {"pool": {"max-concurrency": 4}}
    with node(app, "w@1", stats=lambda: stats, active_queues=lambda: [{"name": "celery"}]):
        wait_until(lambda: slots("celery") == 4)
        assert slots("other") == 0
        slots._max_age = 1e9
    assert slots("celery") == 4
    slots._max_age = 0.0
    wait_until(lambda: slots("celery") == 0)
