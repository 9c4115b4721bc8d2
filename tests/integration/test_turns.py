"""Managed and unmanaged queues of one worker: each gets its turn, through kombu's own consumer."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Final, Protocol

import pytest
from celery import Celery
from kombu import entity, messaging
from kombu.transport import redis as kombu_redis

from celery_dynprio import DynPrio
from celery_dynprio.brokers.redis.turns import TakeTurns
from tests.conftest import MakeProject, StartWorker
from tests.processes import wait_until
from tests.servers import Database

#: Without kombu's types, which not all of their methods have.
Queue: Final[Any] = entity.Queue
Consumer: Final[Any] = messaging.Consumer


class Worker:
    """What a worker has of kombu: a channel with a consumer, and the step."""

    def __init__(self, app: Celery, queues: Sequence[str]) -> None:
        self.got: list[str] = []
        self.connection = app.connection_for_read()
        self.consumer = Consumer(
            self.connection, [Queue(name) for name in queues], on_message=self._receive, no_ack=True
        )
        self.parent = SimpleNamespace(app=app, task_consumer=self.consumer)
        self.step = TakeTurns(self.parent)
        self.step.start(self.parent)
        self.consumer.consume()

    def _receive(self, message: Any) -> None:
        self.got.append(message.payload)

    def publish(self, waiting: Mapping[str, Sequence[int]]) -> None:
        """One message at each of these levels of each queue, the body of which tells both."""
        producer = self.connection.Producer()
        for queue, levels in waiting.items():
            for level in levels:
                producer.publish(f"{queue} {level}", routing_key=queue, priority=level)

    def take(self, count: int) -> list[str]:
        """The next messages."""
        self.got.clear()
        while len(self.got) < count:
            self.connection.drain_events(timeout=10)
        return list(self.got)


class MakeWorker(Protocol):
    def __call__(self, queues: Sequence[str], **options: Any) -> Worker: ...


@pytest.fixture
def make_worker(valkey: Database) -> Iterator[MakeWorker]:
    """Workers of an app that manages the queues whose names begin with ``m``."""
    made: list[Worker] = []

    def make(queues: Sequence[str], **options: Any) -> Worker:
        app = Celery("turns", broker=valkey.url, set_as_current=False)
        app.conf.update(broker_transport_options=options, dynprio_queues=["m", "m1", "m2"])
        _ = DynPrio(app).settings
        made.append(Worker(app, queues))
        return made[-1]

    yield make
    for worker in made:
        worker.connection.release()


def rounds(taken: Sequence[str], of: int = 2) -> list[set[str]]:
    """What was taken, in rounds of one turn each: who begins differs between versions of kombu."""
    return [set(taken[start : start + of]) for start in range(0, len(taken), of)]


def test_a_managed_and_an_unmanaged_queue_take_turns(make_worker: MakeWorker) -> None:
    worker = make_worker(["m", "mails"], global_keyprefix="shop:")
    worker.publish({"m": [7, 4, 9], "mails": [0] * 5})
    assert rounds(worker.take(6)) == [{"m 4", "mails 0"}, {"m 7", "mails 0"}, {"m 9", "mails 0"}]
    assert worker.take(2) == ["mails 0", "mails 0"]


def test_managed_queues_compete_by_level_for_the_turns_of_all_of_them(make_worker: MakeWorker) -> None:
    worker = make_worker(["m1", "a", "m2", "b"])
    worker.publish({"m1": [9, 2, 5], "m2": [4, 8, 9], "a": [0] * 3, "b": [6, 3, 0]})
    assert rounds(worker.take(9), of=3) == [{"m1 2", "a 0", "b 0"}, {"m2 4", "a 0", "b 3"}, {"m1 5", "a 0", "b 6"}]
    assert worker.take(1) == ["m2 8"]
    assert set(worker.take(2)) == {"m1 9", "m2 9"}


def test_managed_queues_of_one_level_take_turns_among_themselves(make_worker: MakeWorker) -> None:
    worker = make_worker(["m", "m1", "m2", "a"])
    worker.publish({"m": [5] * 3, "m1": [5] * 3, "m2": [5] * 3, "a": [0] * 9})
    managed = [each for each in worker.take(18) if each != "a 0"]
    assert rounds(managed, of=3) == [{"m 5", "m1 5", "m2 5"}] * 3


def test_a_queue_without_messages_leaves_its_turn_to_the_next(make_worker: MakeWorker) -> None:
    worker = make_worker(["a", "m1", "b", "m2"])
    worker.publish({"m2": [9] * 3, "b": [0] * 3})
    assert rounds(worker.take(6)) == [{"m2 9", "b 0"}] * 3
    worker.publish({"m1": [9], "a": [0], "b": [0]})
    assert set(worker.take(3)) == {"a 0", "b 0", "m1 9"}


def test_managed_queues_alone_are_asked_level_by_level(make_worker: MakeWorker) -> None:
    worker = make_worker(["m1", "m2"])
    worker.publish({"m1": [9, 1, 3], "m2": [2, 4]})
    assert worker.take(5) == ["m1 1", "m2 2", "m1 3", "m2 4", "m1 9"]


def test_unmanaged_queues_alone_are_asked_as_by_kombu(make_worker: MakeWorker) -> None:
    worker = make_worker(["a", "b"])
    worker.publish({"a": [9, 1, 3], "b": [2, 4]})
    assert worker.take(5) == ["a 1", "b 2", "a 3", "b 4", "a 9"]


@pytest.mark.parametrize("strategy", ["priority", "sorted"])
def test_an_order_of_queues_that_the_user_chose_stays(make_worker: MakeWorker, strategy: str) -> None:
    worker = make_worker(["z", "m", "a"], queue_order_strategy=strategy)
    worker.publish({"a": [0, 0], "m": [9, 9], "z": [0, 0]})
    queues = worker.consumer.channel.active_queues if strategy == "priority" else ["a", "m", "z"]
    level = {"a": 0, "m": 9, "z": 0}
    assert worker.take(6) == [f"{queue} {level[queue]}" for queue in queues for _ in range(2)]


def test_queues_join_and_leave_at_run_time(make_worker: MakeWorker) -> None:
    worker = make_worker(["m"])
    worker.publish({"m": [9, 8, 7, 6], "a": [0, 0, 0]})
    assert worker.take(1) == ["m 6"]
    worker.consumer.add_queue(Queue("a"))
    worker.consumer.consume()
    assert rounds(worker.take(4)) == [{"m 7", "a 0"}, {"m 8", "a 0"}]
    worker.consumer.cancel_by_queue("a")
    assert worker.take(1) == ["m 9"]


def test_a_user_s_own_levels_take_turns_too(make_worker: MakeWorker) -> None:
    worker = make_worker(["m", "a"], priority_steps=[0, 5], sep=":")
    worker.publish({"m": [7, 7], "a": [7, 0]})
    assert rounds(worker.take(4)) == [{"m 7", "a 0"}, {"m 7", "a 7"}]


def test_with_a_kombu_that_asks_otherwise_the_worker_says_so_once(
    make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def start(channel: Any, timeout: float = 1) -> None:
        keys = sorted(channel._q_for_pri(queue, 0) for queue in channel._queue_cycle.consume(9))
        channel._in_poll = channel.client.connection
        channel.client.connection.send_command("BRPOP", *keys, timeout)

    monkeypatch.setattr(kombu_redis.Channel, "_brpop_start", start)
    with caplog.at_level(logging.WARNING, "celery_dynprio"):
        worker = make_worker(["m", "mails"])
        worker.step.start(worker.parent)
    (record,) = caplog.records
    assert "(m, m1, m2)" in record.getMessage()
    worker.publish({"m": [0], "mails": [0, 0]})
    assert worker.take(3) == ["m 0", "mails 0", "mails 0"]


# In a pool of greenlets kombu 5.7 waits two seconds for a slot, with Celery alone too.
@pytest.mark.parametrize(("pool", "concurrency"), [("prefork", 1), ("threads", 1), ("gevent", 30)])
def test_a_worker_of_both_kinds_of_queues_starves_neither(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker, pool: str, concurrency: int
) -> None:
    body = f"""
        from celery_dynprio import DynPrio
        import redis
        app.conf.update(dynprio_embedded=False, dynprio_trace=False, dynprio_learn=False)
        DynPrio(app)
        ran = redis.Redis.from_url("{valkey.url}")

        @app.task
        def note(name):
            ran.rpush("ran", name)
    """
    project = make_project(valkey.url, body, conf={"worker_prefetch_multiplier": 1})
    note = project.load().note
    for _ in range(20):
        note.delay("managed")
    for _ in range(40):
        note.apply_async(("mail",), queue="mails")
    start_worker(project, pool=pool, concurrency=concurrency, args=["-Q", "celery,mails"])
    wait_until(lambda: valkey.client.llen("ran") >= 20)
    first = valkey.client.lrange("ran", 0, 19)
    assert 8 <= first.count(b"managed") <= 12
