"""Producers, workers and reprioritizers get the add-on, and lose it again, in every order: each task runs, once.

The workers are real ones, one with the add-on and one without, that are told when to take from the queue. Producers and
the reprioritizer are of this process, and so is a worker that stops: all that the broker sees of that is that a channel
gives back what it had.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import cycle, permutations
from signal import SIGTERM
from types import SimpleNamespace
from typing import Any, Final
from uuid import uuid4

import pytest
from celery import Celery

from celery_dynprio import DynPrio, Weight
from celery_dynprio.assembly import reprioritizers
from celery_dynprio.brokers.redis.broker import ERRORS, RedisBroker
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.restoring import RestoreToPlainLists
from celery_dynprio.engine.loop import serve
from celery_dynprio.operators.fleet import Fleet
from celery_dynprio.operators.operations import Operations
from tests.conftest import MakeProject, StartWorker
from tests.nodes import WorkerNode
from tests.processes import wait_until
from tests.servers import Database

pytestmark = pytest.mark.slow

ROLES: Final = ("producer", "worker", "reprioritizer")
ORDERS: Final = tuple(permutations(ROLES))

TASK: Final = """
    @app.task(name="work", bind=True)
    def work(self):
        app.backend.client.rpush("ran", self.request.id)
"""

ADDON: Final = """
    from celery_dynprio import DynPrio, Weight

    app.conf.update(dynprio_policy=1 * Weight(), dynprio_embedded=False)
    DynPrio(app)
"""

IN_BETWEEN: Final = [f"celery\x06\x16{level}" for level in (1, 2, 4, 5, 7, 8)]
LISTS: Final = [*IN_BETWEEN, "celery", *(f"celery\x06\x16{level}" for level in (3, 6, 9))]


class Shop:
    """A system that is being rolled out."""

    def __init__(self, database: Database, old: WorkerNode, new: WorkerNode) -> None:
        self.redis: Any = database.client
        self.plain, self.addon = (Celery("shop", broker=database.url, set_as_current=False) for _ in range(2))
        self.addon.conf.update(dynprio_policy=1 * Weight(), dynprio_embedded=False)
        self.settings = DynPrio(self.addon).settings
        self.client = RedisClient.from_app(self.addon)
        self.operations = Operations(self.addon, RedisBroker(self.client), self.settings, "test")
        self.sent: list[str] = []
        self._nodes = {False: old, True: new}
        self._producing = False
        self._ended = threading.Event()
        self._reprioritizing: tuple[threading.Event, threading.Thread] | None = None
        self._publisher = threading.Thread(target=self._publish)

    # The roles: each has the add-on or not

    def producer(self, *, addon: bool) -> None:
        self._producing = addon

    def worker(self, *, addon: bool) -> None:
        """For a while there are both; then one like the old one gives back what it had, and the new one is left."""
        self._consume(self._nodes[addon], "add_consumer")
        self.flow()
        self._nobody_takes()
        self._stop_a_worker(addon=not addon)
        self._consume(self._nodes[addon], "add_consumer")

    def reprioritizer(self, *, addon: bool) -> None:
        if not addon:
            self.stop_reprioritizer()
            return
        stop, fleet = threading.Event(), Fleet.of(self.addon)
        fleet.start()
        leaders = reprioritizers(RedisBroker(self.client), self.settings, "test:1:x", workers=fleet)

        def run() -> None:
            serve(leaders, 0.02, stop, errors=ERRORS)
            fleet.stop()

        self._reprioritizing = stop, threading.Thread(target=run)
        self._reprioritizing[1].start()

    # What goes on meanwhile

    def flow(self) -> None:
        """Wait until some more tasks are published, and all of them run."""
        count = len(self.sent) + 20
        wait_until(lambda: len(self.sent) >= count, 20)
        sent = set(self.sent)
        wait_until(lambda: sent <= set(self.ran()), 30, f"all tasks run; they wait in {self.waiting()}")

    def fill(self, count: int) -> None:
        """Publish so many tasks that no worker takes."""
        self._nobody_takes()
        before = len(self.sent)
        wait_until(lambda: len(self.sent) >= before + count)

    def start(self, *, addon: bool) -> None:
        self._producing = addon
        self._consume(self._nodes[not addon], "cancel_consumer")
        self._consume(self._nodes[addon], "add_consumer")
        self._publisher.start()

    def stop_reprioritizer(self) -> None:
        if self._reprioritizing is not None:
            stop, thread = self._reprioritizing
            stop.set()
            thread.join()
            self._reprioritizing = None

    def close(self) -> None:
        self._ended.set()
        self.stop_reprioritizer()
        if self._publisher.ident is not None:
            self._publisher.join()
        self.client.close()
        self.plain.close()
        self.addon.close()

    def ran(self) -> list[str]:
        return [each.decode() for each in self.redis.lrange("ran", 0, -1)]

    def waiting(self, lists: list[str] = LISTS) -> dict[str, int]:
        return {key: depth for key in lists if (depth := self.redis.llen(key))}

    def end(self) -> None:
        """All that was published runs, once."""
        self._ended.set()
        self._publisher.join()
        wait_until(lambda: set(self.sent) <= set(self.ran()), 30, f"all tasks run; they wait in {self.waiting()}")
        assert Counter(self.ran()) == Counter(self.sent)
        assert self.waiting() == {}

    def _publish(self) -> None:
        numbers = cycle(range(11))
        while not self._ended.wait(0.025):  # fewer than a worker of Celery 5.5 with threads runs
            number, task_id = next(numbers), str(uuid4())
            self.sent.append(task_id)
            options: dict[str, Any] = {"priority": number - 1} if number in {2, 6, 9} else {}
            if self._producing:
                self.addon.send_task("work", task_id=task_id, dynprio={"weight": number}, **options)
            else:
                self.plain.send_task("work", task_id=task_id, **options)

    def _nobody_takes(self) -> None:
        for node in self._nodes.values():
            self._consume(node, "cancel_consumer")

    def _consume(self, node: WorkerNode, command: str) -> None:
        (answer,) = getattr(self.plain.control, command)(
            "celery", destination=[node.hostname()], reply=True, timeout=20, limit=1
        )
        assert "ok" in answer[node.hostname()], answer

    def _stop_a_worker(self, *, addon: bool) -> None:
        """A worker that has reserved some tasks, and is stopped."""
        with (self.addon if addon else self.plain).connection_for_read() as connection:
            channel = connection.channel()
            if addon:
                RestoreToPlainLists(SimpleNamespace()).start(
                    SimpleNamespace(task_consumer=SimpleNamespace(channel=channel))
                )
            taken: list[Any] = []
            while len(taken) < 3:
                message = channel.basic_get("celery")
                taken += [message] if message is not None else []


@pytest.fixture
def make_shop(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], Shop]]:
    monkeypatch.setattr("celery_dynprio.operators.fleet.LOOK_INTERVAL", 0.1)
    for module in ("operators.operations", "producer.guide"):  # nobody takes what is published while drain waits
        monkeypatch.setattr(f"celery_dynprio.{module}.STALE", 1.0)
    old = start_worker(make_project(valkey.url, TASK), "old")
    new = start_worker(make_project(valkey.url, ADDON + TASK), "new")
    with ExitStack() as shops:

        def make() -> Shop:
            shop = Shop(valkey, old, new)
            shops.callback(shop.close)
            for node in (old, new):
                node.wait_for_answer(shop.plain)
            valkey.client.delete("ran")
            return shop

        yield make


def test_every_order_in(make_shop: Callable[[], Shop]) -> None:
    for order in ORDERS:
        shop = make_shop()
        shop.start(addon=False)
        shop.flow()
        for role in order:
            getattr(shop, role)(addon=True)
            shop.flow()
        wait_until(lambda: shop.redis.exists("dynprio:celery:levels"), message=f"{order}: all levels are used")  # noqa: B023
        shop.end()
        shop.close()


def test_every_order_out(make_shop: Callable[[], Shop]) -> None:
    for order in ORDERS:
        shop = make_shop()
        shop.start(addon=True)
        shop.operations.resume()
        shop.reprioritizer(addon=True)
        shop.flow()
        wait_until(lambda: shop.redis.exists("dynprio:celery:levels"), message=f"{order}: all levels are used")  # noqa: B023
        shop.fill(100)
        wait_until(lambda: len(shop.waiting(IN_BETWEEN)) > 3, message=f"{order}: tasks in between")  # noqa: B023
        shop.operations.drain(0.0)
        assert shop.waiting(IN_BETWEEN) == {}
        shop._consume(shop._nodes[True], "add_consumer")
        for role in order:
            getattr(shop, role)(addon=False)
            shop.flow()
            assert shop.waiting(IN_BETWEEN) == {}
        shop.end()
        shop.close()


def test_a_worker_that_stops_gives_back_to_where_plain_workers_look(
    valkey: Database, make_project: MakeProject, start_worker: StartWorker
) -> None:
    worker = start_worker(make_project(valkey.url, ADDON + TASK))
    redis: Any = valkey.client
    with Celery("shop", broker=valkey.url, set_as_current=False) as plain:
        for _ in range(5):
            plain.send_task("work", priority=5, countdown=3600)
    wait_until(lambda: redis.hlen("unacked") == 5, message="the worker has reserved all")
    worker.signal(SIGTERM)
    assert worker.wait() == 0
    assert {key: redis.llen(key) for key in LISTS if redis.llen(key)} == {"celery\x06\x163": 5}
