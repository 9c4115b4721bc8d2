"""Where messages go in a process with the add-on that kombu places by a priority of the user's own."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from celery import Celery
from kombu import Connection

from celery_dynprio import DynPrio
from celery_dynprio.brokers.redis.restoring import RestoreToPlainLists
from tests.apps import make_app
from tests.servers import Database


def lists(database: Database) -> set[bytes]:
    client = cast("Any", database.client)
    return {key for key in client.keys("*") if client.type(key) == b"list"}


@pytest.fixture
def app(valkey: Database) -> Iterator[Celery]:
    with Celery("shop", broker=valkey.url, set_as_current=False) as app:
        DynPrio(app)
        yield app


def consuming(app: Celery) -> Any:
    """The channel of a worker of this app."""
    channel = app.connection_for_read().channel()
    parent = SimpleNamespace(app=app, task_consumer=SimpleNamespace(channel=channel))
    RestoreToPlainLists(parent).start(parent)
    return channel


def test_a_priority_in_an_unmanaged_queue(valkey: Database, app: Celery) -> None:
    app.send_task("mail", queue="mails", priority=5)
    assert lists(valkey) == {b"mails\x06\x163"}


def test_what_a_producer_without_the_addon_sent_is_given_back_to_where_it_was(valkey: Database, app: Celery) -> None:
    with make_app(valkey.url, steps=[0, 3, 6, 9]) as plain:
        for queue in ("celery", "mails"):
            plain.send_task("work", queue=queue, priority=5)
    channel = consuming(app)
    for queue in ("celery", "mails"):
        assert channel.basic_get(queue) is not None
    assert lists(valkey) == set()
    channel.connection.client.close()
    assert lists(valkey) == {b"celery\x06\x163", b"mails\x06\x163"}


def test_what_a_dead_worker_had_of_another_app_is_given_back_to_where_that_looks(valkey: Database, app: Celery) -> None:
    with make_app(valkey.url, steps=[0, 3, 6, 9]) as plain:
        plain.send_task("work", queue="theirs", priority=8)
        with plain.connection_for_read() as connection:
            message = connection.channel().basic_get("theirs")
            assert message is not None
            connection.channel().qos.restore_unacked_once = lambda **_: None
            consuming(app).qos.restore_by_tag(message.delivery_tag)
            assert lists(valkey) == {b"theirs\x06\x166"}


def test_the_users_own_steps_are_left_alone(valkey: Database) -> None:
    with Celery("shop", broker=valkey.url, set_as_current=False) as app:
        app.conf.broker_transport_options = {"priority_steps": list(range(10))}
        DynPrio(app)
        app.send_task("mail", queue="mails", priority=5)
        channel = consuming(app)
        assert channel.basic_get("mails") is not None
        channel.connection.client.close()
    assert lists(valkey) == {b"mails\x06\x165"}


def test_a_broker_without_levels_is_left_alone() -> None:
    with Connection("memory://") as connection:
        channel = connection.channel()
        before = channel._get_message_priority
        step = RestoreToPlainLists(SimpleNamespace(app=None))
        step.start(SimpleNamespace(task_consumer=SimpleNamespace(channel=channel)))
        assert channel._get_message_priority == before
