"""``dynprio count`` and ``count_places``: what scales workers asks them."""

from __future__ import annotations

import json
from typing import Any

from celery.bin.base import CLIContext
from click.testing import CliRunner

from celery_dynprio import DynPrio
from celery_dynprio.brokers.redis.backlog import RedisBacklog
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.counts import count_places
from celery_dynprio.cli import dynprio
from celery_dynprio.models import HELD, OVERFLOW, Move
from tests.apps import make_app
from tests.servers import Database

QUEUES = ("celery", "mails")


def counted(url: str, *args: str) -> str:
    app = make_app(url)
    app.conf.dynprio_queues = QUEUES
    DynPrio(app)
    result = CliRunner().invoke(dynprio, ["count", *args], obj=CLIContext(app=app, no_color=True, workdir=None))
    assert result.exit_code == 0, result.output
    return result.output


def fill(database: Database) -> None:
    for number in range(100):
        headers = {"id": str(number), "task": "t"}
        database.client.lpush("celery\x06\x165", json.dumps({"body": "", "headers": headers, "properties": {}}))
    client = RedisClient.from_app(make_app(database.url))
    backlog = RedisBacklog(client, "celery")
    tasks = backlog.read(0).levels[5]
    places = [OVERFLOW] * 30 + [HELD] * 5
    backlog.apply([Move(task, 5, place, 0.5, "test") for task, place in zip(tasks, places, strict=False)])
    client.close()
    database.client.lpush("mails", "not even JSON")


def test_what_waits_is_counted_by_queue_and_place(server: Database) -> None:
    assert counted(server.url) == "No tasks are waiting.\n"
    fill(server)
    assert server.client.llen("celery") == 0
    assert json.loads(counted(server.url, "--json")) == {
        "waiting": 96,
        "queues": [
            {"queue": "celery", "waiting": 95, "levels": [0] * 5 + [65] + [0] * 4, "parked": 30, "held": 5},
            {"queue": "mails", "waiting": 1, "levels": [1] + [0] * 9, "parked": 0, "held": 0},
        ],
    }
    assert [line.split() for line in counted(server.url).splitlines()] == [
        ["queue", "place", "messages"],
        ["celery", "P5", "65"],
        ["celery", "parked", "30"],
        ["celery", "held", "5"],
        ["mails", "P0", "1"],
        ["96", "waiting"],
    ]


def test_all_queues_are_counted_in_one_round_trip(valkey: Database) -> None:
    client = RedisClient.from_app(make_app(valkey.url))
    trips = []
    pipeline = client.redis.pipeline

    def counting(*args: Any, **kwargs: Any) -> Any:
        trips.append(1)
        return pipeline(*args, **kwargs)

    client.redis.pipeline = counting
    client.redis.llen = client.redis.hlen = None
    assert count_places(client, QUEUES)["mails"][0] == 0
    assert len(trips) == 1
    client.close()
