"""Which queues have something to do for a leader, as each broker tells."""

from __future__ import annotations

import json

import pytest

from celery_dynprio.brokers.memory import MemoryBroker
from celery_dynprio.brokers.redis.broker import RedisBroker
from celery_dynprio.models import HELD, OVERFLOW, Move, PendingTask, Place
from celery_dynprio.ports.broker import Broker
from tests.contract.conftest import Connect


def publish(broker: Broker, queue: str, place: Place) -> None:
    """Put one task into this place."""
    if isinstance(broker, MemoryBroker):
        task = PendingTask("1", "a.task", 1.0)
        broker.backlog(queue).publish(task, 5)
        if place != 5:
            broker.backlog(queue).apply([Move(task, 5, place, 0.5, "test")])
        return
    assert isinstance(broker, RedisBroker)
    message = json.dumps({"headers": {"id": "1", "task": "a.task"}, "properties": {}, "body": ""})
    if place >= 0:
        broker.client.redis.lpush(broker.client.level_key(queue, place), message)
    else:
        name = {OVERFLOW: "overflow", HELD: "held"}[place]
        broker.client.redis.hset(broker.client.queue_key(queue, name), "1", message)


def test_no_queue_is_occupied_at_first(connect: Connect) -> None:
    assert set(connect().occupied(["one", "other"])) == set()
    assert set(connect().occupied([])) == set()


@pytest.mark.parametrize("place", [0, 4, 9, OVERFLOW])
def test_a_queue_is_occupied_wherever_a_task_waits(connect: Connect, place: Place) -> None:
    broker = connect()
    publish(broker, "one", place)
    assert set(broker.occupied(["other", "one"])) == {"one"}
    assert set(broker.occupied(["other"])) == set()


def test_what_an_operator_holds_is_nothing_to_do(connect: Connect) -> None:
    broker = connect()
    publish(broker, "one", HELD)
    assert set(broker.occupied(["one"])) == set()


def test_of_very_many_queues_the_right_ones_are_found(connect: Connect) -> None:
    broker = connect()
    queues = [f"queue-{number}" for number in range(500)]
    for number in (0, 77, 499):
        publish(broker, queues[number], 3)
    assert set(broker.occupied(queues)) == {"queue-0", "queue-77", "queue-499"}
