"""Operators against workers, a reprioritizer and each other: each task runs once or is cancelled, as they are told."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, cast

import pytest
import redis
from celery.result import AsyncResult

from celery_dynprio import DynPrio
from celery_dynprio.operators.fates import Answer
from celery_dynprio.operators.operations import Operations
from celery_dynprio.operators.selection import Filter
from celery_dynprio.operators.workers import Workers
from tests.conftest import MakeProject, StartCelery, StartWorker
from tests.messages import pending
from tests.processes import wait_until
from tests.servers import Database

TASKS: Final = 1000
OPERATORS: Final = 4

BODY: Final = """
import os
import redis
from celery_dynprio import Age, DynPrio, FairShare, Weight, dynprio_task

app.conf.update(
    dynprio_policy=3 * Weight() + 2 * FairShare() + 1 * Age(saturation=20),
    dynprio_embedded=False,
    dynprio_window=400,
)
dynprio = DynPrio(app)
notes = redis.Redis.from_url(os.environ["NOTES"])

@dynprio_task(app=app, key="tenant")
def work(tenant):
    notes.rpush("ran", work.request.id)
    notes.blpop("permits")
"""

OPS: Final = ("hold", "release", "bump", "reprioritize", "cancel")


class Operator(threading.Thread):
    """Does what it likes to tasks at random, and remembers what it was told.

    Each thing it does permits three tasks to end: neither operators nor workers are done before the others begin.
    """

    def __init__(self, dynprio: DynPrio, ids: list[str], notes: redis.Redis, stop: threading.Event, seed: int) -> None:
        super().__init__(name=f"operator {seed}")
        self.told: list[tuple[str, str, Answer]] = []
        self.error: BaseException | None = None
        self._dynprio = dynprio
        self._ids = ids
        self._notes = notes
        self._stopped = stop
        self._random = random.Random(seed)

    def run(self) -> None:
        try:
            with self._dynprio.operations(self.name) as operations:
                while not self._stopped.is_set():
                    self._operate(operations)
                    self._notes.rpush("permits", *[self.name] * 3)
        except BaseException as exc:  # noqa: BLE001 - the test tells of it
            self.error = exc

    def _operate(self, operations: Operations) -> None:
        op = self._random.choices(OPS, (5, 4, 3, 3, 2))[0]
        ids = self._random.sample(self._ids, self._random.choice((1, 1, 1, 20)))
        if op == "reprioritize":
            results = operations.reprioritize(ids, {"weight": self._random.randrange(11)})
        else:
            results = getattr(operations, op)(ids)
        self.told += [(op, result.id, result.answer) for result in results]


@pytest.fixture
def operators() -> Iterator[Any]:
    stop = threading.Event()
    running: list[Operator] = []

    def start(dynprio: DynPrio, ids: list[str], notes: redis.Redis) -> list[Operator]:
        running.extend(Operator(dynprio, ids, notes, stop, seed) for seed in range(OPERATORS))
        for each in running:
            each.start()
        return running

    yield start, stop
    stop.set()
    for each in running:
        each.join(30)


@pytest.mark.timeout(400)
def test_each_task_runs_once_or_is_cancelled_and_operators_are_told_the_truth(  # noqa: PLR0917 - fixtures
    make_project: MakeProject,
    valkey: Database,
    redis_server: Database,
    start_worker: StartWorker,
    start_celery: StartCelery,
    operators: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NOTES", valkey.url)
    project = make_project(redis_server.url, BODY, env={"NOTES": valkey.url})
    module = project.load()
    ids = [module.work.delay(f"tenant {n % 7}").id for n in range(TASKS)]
    start, stop = operators
    start_celery(project, "dynprio", "run", "--interval", "0.05", ready_line="dynprio ready")
    for name in ("one", "two"):
        start_worker(project, name, pool="prefork", concurrency=2)
    running = start(module.dynprio, ids, valkey.client)

    def ran() -> Counter[str]:
        return Counter(raw.decode() for raw in cast("list[bytes]", valkey.client.lrange("ran", 0, -1)))

    def discarded() -> set[str]:
        """Those that a worker had, or was about to have, and was told to discard."""
        revoked = {task_id for each in running for _, task_id, answer in list(each.told) if answer is Answer.REVOKED}
        ended = {task_id for task_id in revoked if AsyncResult(task_id, app=module.app).state == "REVOKED"}
        return ended - set(ran()) - cancelled()

    def cancelled() -> set[str]:
        return {
            task_id
            for each in running
            for op, task_id, answer in list(each.told)
            if op == "cancel" and answer is Answer.DONE
        }

    wait_until(lambda: len(ran()) + len(cancelled()) > TASKS * 0.7 or any(each.error for each in running), 180)
    stop.set()
    for each in running:
        each.join(60)
    assert [each.error for each in running] == [None] * OPERATORS
    with module.dynprio.operations() as last:
        last.release([turn.task.id for turn in last.pending(Filter(held=True), workers=Workers()).turns])
    valkey.client.rpush("permits", *["the end"] * TASKS)
    wait_until(lambda: len(ran()) + len(cancelled()) + len(discarded()) >= TASKS, 90, "each ran or was cancelled")
    wait_until(lambda: all(AsyncResult(each, app=module.app).ready() for each in ids), 30, "each has a result")

    assert set(ran().values()) == {1}
    assert set(ran()) & cancelled() == set()
    assert set(ran()) | cancelled() | discarded() == set(ids)
    assert pending(redis_server.client) == []
    assert {AsyncResult(each, app=module.app).state for each in cancelled()} == {"REVOKED"}
    told = Counter((op, answer) for each in running for op, _, answer in each.told)
    unknown = {task_id for each in running for _, task_id, answer in each.told if answer is Answer.NOT_FOUND}
    assert len(unknown) < TASKS / 100, told
    assert unknown <= set(ran()) | cancelled() | discarded(), (
        "on its way to a worker that stood still, which nobody can see"
    )
    assert {op for op, answer in told if answer is Answer.DONE} == set(OPS), told
    truths = {task_id for each in running for _, task_id, answer in each.told if answer is Answer.RUNNING}
    assert truths <= set(ran())
    once = Counter(
        task_id for each in running for op, task_id, answer in each.told if op == "cancel" and answer is Answer.DONE
    )
    assert set(once.values()) == {1}
