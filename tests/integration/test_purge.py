"""Celery's own ways to purge a managed queue leave nothing to come back."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator

import pytest
from celery import Celery
from celery.bin.base import CLIContext
from celery.bin.purge import purge
from click.testing import CliRunner
from kombu import Connection

from celery_dynprio import DynPrio
from celery_dynprio.brokers.redis.backlog import RedisBacklog
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.models import CANCELLED, HELD, OVERFLOW, Move
from tests.servers import Database


@pytest.fixture(params=["", "tenant:"])
def app(valkey: Database, request: pytest.FixtureRequest) -> Iterator[Celery]:
    app = Celery("shop", broker=valkey.url, set_as_current=False)
    app.conf.broker_transport_options = {"global_keyprefix": request.param}
    DynPrio(app)
    yield app
    app.close()


@pytest.fixture
def client(app: Celery) -> Iterator[RedisClient]:
    client = RedisClient.from_app(app)
    yield client
    client.close()


def by_command(app: Celery) -> int:
    context = CLIContext(app=app, no_color=True, workdir=None)
    done = CliRunner().invoke(purge, ["-f", "-Q", "celery"], obj=context, catch_exceptions=False)
    return int(done.output.split()[1])


def by_pooled_channel(app: Celery) -> int:
    with app.pool.acquire(block=True) as connection:
        return int(connection.default_channel.queue_purge("celery"))


def by_control(app: Celery) -> int:
    return int(app.control.purge())


def publish_and_park(app: Celery, client: RedisClient) -> RedisBacklog:
    """Three messages in the front, three held, three parked, and one that is being cancelled."""
    ids = [app.send_task("report").id for _ in range(10)]
    backlog = RedisBacklog(client, "celery")
    found = [same[0] for same in backlog.find(ids, 0.0).values()]
    places = [HELD] * 3 + [OVERFLOW] * 3 + [CANCELLED]
    moves = [Move(each.task, each.place, place, 0.0, "x") for each, place in zip(found, places, strict=False)]
    backlog.apply(moves)
    return backlog


@pytest.mark.parametrize("by", [by_command, by_control, by_pooled_channel])
def test_what_is_parked_is_purged_too(app: Celery, client: RedisClient, by: Callable[[Celery], int]) -> None:
    backlog = publish_and_park(app, client)
    client.redis.lpush(client.level_key("mails", 0), b"mail")  # an app of Celery 5.5 purges what it has published to
    assert by(app) == 9
    assert {place: count for place, count in backlog.count().items() if count} == {CANCELLED: 1}
    assert sum(client.redis.llen(client.level_key("mails", level)) for level in range(10)) == 1


def test_a_purge_without_the_addon_is_as_it_was(app: Celery, client: RedisClient) -> None:
    backlog = publish_and_park(app, client)
    dynprio = DynPrio.of(app)
    assert dynprio is not None
    dynprio.uninstall()
    assert type(app.connection_for_write()) is Connection
    with app.connection_for_write() as connection:
        connection.default_channel.queue_purge("celery")
    counts = backlog.count()
    assert (counts[OVERFLOW], counts[HELD]) == (3, 3)


def test_a_purge_over_a_connection_of_the_pool_works_after_the_addon_left(app: Celery, client: RedisClient) -> None:
    backlog = publish_and_park(app, client)
    with app.pool.acquire(block=True) as connection:
        assert connection.default_channel.queue_purge("mails") == 0
    dynprio = DynPrio.of(app)
    assert dynprio is not None
    dynprio.uninstall()
    assert by_pooled_channel(app) == 3
    counts = backlog.count()
    assert (counts[OVERFLOW], counts[HELD]) == (3, 3)


def test_connections_can_be_pickled(app: Celery) -> None:
    connection = app.connection_for_write()
    assert pickle.loads(pickle.dumps(connection)).as_uri() == connection.as_uri()  # noqa: S301 - our own
