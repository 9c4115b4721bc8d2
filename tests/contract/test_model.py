"""Whatever happens, the Redis backlog and the in-memory model agree on where every task is, and in which order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from uuid import uuid4

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from celery_dynprio.brokers.memory import MemoryBacklog
from celery_dynprio.brokers.redis.backlog import RedisBacklog
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.lease import RedisLease
from celery_dynprio.engine.planner import Planner
from celery_dynprio.engine.tick import Reprioritizer
from celery_dynprio.message import HEADER
from celery_dynprio.models import (
    CANCELLED,
    HELD,
    OVERFLOW,
    Move,
    Outcome,
    PendingTask,
    Place,
    Report,
    Snapshot,
    is_level,
)
from celery_dynprio.policies import Age, Deadline, FairShare, Weight
from celery_dynprio.ports.broker import Backlog
from celery_dynprio.ports.stores import UsageFigures
from celery_dynprio.runtimes import Runtimes
from celery_dynprio.stores.memory import MemoryUsage
from celery_dynprio.testing import MemoryLease
from tests.apps import make_app
from tests.servers import Database

LEVELS = 10
WINDOW = 6
POLICY = 3 * Weight() + 2 * Deadline(horizon=60) + 1 * Age(saturation=30) + 1 * FairShare()


class Killed(Exception):  # noqa: N818 - not an error but an end
    """The process died here."""


class Dying:
    """A backlog whose process is killed after so many moves."""

    def __init__(self, backlog: Backlog, moves: int) -> None:
        self._backlog = backlog
        self._left = moves

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backlog, name)

    def apply(self, moves: Sequence[Move], fence: str | None = None, audit: str = "") -> list[Outcome]:
        self._backlog.apply(moves[: self._left], fence, audit)
        raise Killed


class Learned(MemoryUsage):
    def read(self, now: float) -> UsageFigures:  # noqa: ARG002 - nothing ages here
        return UsageFigures(Runtimes({"a": 1.0, "b": 20.0}), {"ada": 30.0, "bob": 1.0})


class Agreement(RuleBasedStateMachine):
    def __init__(self, client: RedisClient) -> None:
        super().__init__()
        self.client = client
        self.queue = f"queue-{uuid4()}"
        self.now = 1_700_000_000.0
        self.published = 0
        self.memory = MemoryBacklog(self.queue, LEVELS)
        self.memory.fence = "only"
        self.restart()

    def restart(self) -> None:
        """A new reprioritizer process: it knows nothing but what is in the broker."""
        self.redis = RedisBacklog(self.client, self.queue, WINDOW)
        lease = RedisLease(self.client, self.queue, owner="one", ttl=600)
        self.ticking = [self._reprioritizer(self.redis, lease), self._reprioritizer(self.memory, MemoryLease("only"))]

    def _reprioritizer(self, backlog: Any, lease: Any) -> Reprioritizer:
        return Reprioritizer(
            backlog=backlog,
            lease=lease,
            planner=Planner(LEVELS, WINDOW, 0.25),
            policy=POLICY,
            usage=Learned(),
            paused=lambda: False,
            budget=1e9,
            window=WINDOW,
            clock=lambda: self.now,
        )

    @rule(
        level=st.integers(0, LEVELS - 1),
        name=st.sampled_from("ab"),
        weight=st.integers(0, 10),
        due=st.none() | st.integers(-30, 300),
        key=st.sampled_from(["ada", "bob", None]),
        pin=st.none() | st.integers(0, LEVELS - 1),
        again=st.booleans(),
    )
    def publish(  # noqa: PLR0917 - hypothesis passes them by name
        self,
        level: Place,
        name: str,
        weight: int,
        due: int | None,
        key: str | None,
        pin: int | None,
        again: bool,  # noqa: FBT001
    ) -> None:
        self.published += 1
        self.now += 0.001
        known = [task.id for tasks in self.memory.read(self.now).levels for task in tasks]
        task_id = known[0] if again and known and self.published % 3 == 0 else f"task {self.published}"
        deadline = None if due is None else self.now + due
        task = PendingTask(task_id, name, self.now, float(weight), deadline, key, 0, pin)
        header = {"at": self.now, "w": weight, "due": deadline, "key": key, "pin": pin}
        message = {
            "body": "W1tdLCB7fSwge31d",
            "headers": {"id": task.id, "task": name, HEADER: header},
            "properties": {"priority": level, "delivery_tag": self.published},
        }
        self.client.redis.lpush(self.client.level_key(self.queue, level), json.dumps(message))
        self.memory.publish(task, level)

    @rule()
    def consume(self) -> None:
        keys = [self.client.level_key(self.queue, level) for level in range(LEVELS)]
        raw = next((raw for key in keys if (raw := self.client.redis.rpop(key))), None)
        expected = self.memory.consume()
        assert (json.loads(raw)["headers"]["id"] if raw else None) == (expected.id if expected else None)

    @rule()
    def tick(self) -> None:
        redis, memory = (each.tick() for each in self.ticking)
        assert self._told(redis) == self._told(memory)

    @rule(after=st.integers(0, 6))
    def kill_in_a_tick(self, after: int) -> None:
        for each in self.ticking:
            each.backlog = Dying(each.backlog, after)
            with suppress(Killed):  # a tick that has nothing to move ends as it should
                each.tick()
        self.restart()
        # The successor finds the overflow by reading; nothing but the next tick may depend on having known it before.

    @rule()
    def kill_between_ticks(self) -> None:
        self.restart()

    @rule(seconds=st.floats(-3600, 3600))
    def clock_jumps(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: sum(self.memory.read(self.now).depths) <= 2 * WINDOW)  # deeper is not read
    @rule(data=st.data(), place=st.sampled_from([*range(LEVELS), OVERFLOW, HELD]))
    def an_operator_moves(self, data: st.DataObject, place: Place) -> None:
        snapshot = self.memory.read(self.now)
        places = {task.id: (task, level) for level, tasks in enumerate(snapshot.levels) for task in tasks}
        for parked in (OVERFLOW, HELD):
            tasks = [task for task in self.memory.parked(parked, self.now) if task.id not in places]
            places |= {task.id: (task, parked) for task in tasks}
        choices = sorted(task_id for task_id, (_, at) in places.items() if at != place)
        if not choices:
            return
        task, source = places[data.draw(st.sampled_from(choices))]
        self.redis.read(self.now)
        move = Move(task, source, place, 0.5, "operator")
        assert self.redis.apply([move]) == self.memory.apply([move])

    @rule(
        data=st.data(),
        place=st.sampled_from([*range(LEVELS), HELD, CANCELLED, None]),
        changes=st.none()
        | st.fixed_dictionaries(
            {},
            optional={
                "w": st.integers(0, 10),
                "due": st.none() | st.just(1_700_000_100.0),
                "key": st.sampled_from(["eve", None]),
                "pin": st.none() | st.integers(0, LEVELS - 1),
            },
        ),
        first=st.booleans(),
    )
    def an_operator_steers(
        self,
        data: st.DataObject,
        place: Place | None,
        changes: dict[str, Any] | None,
        first: bool,  # noqa: FBT001
    ) -> None:
        """Find a task by its id, wherever it is, and move or change it: an operator's process knows nothing before."""
        ids = [f"task {number}" for number in range(1, self.published + 1)]
        operator = RedisBacklog(self.client, self.queue, clock=lambda: self.now)
        found = self.memory.find(ids, self.now)
        assert operator.find(ids, self.now) == found
        if not found:
            return
        same = found[data.draw(st.sampled_from(sorted(found)))]
        chosen = data.draw(st.sampled_from(same))
        assert operator.find([chosen.task.id], self.now) == {chosen.task.id: same}
        target = chosen.place if place is None else place
        if target == OVERFLOW:  # whoever leads knows of the overflow what it was: no operation changes it there
            return
        move = Move(
            chosen.task, chosen.place, target, 0.5, "operator", changes or None, first=first and is_level(target)
        )
        assert operator.apply([move], audit="{}") == self.memory.apply([move])

    @precondition(lambda self: sum(self.memory.count().values()) > WINDOW)
    @rule(count=st.integers(1, 5))
    def spill(self, count: int) -> None:
        assert self.redis.spill(count, self.now) == self.memory.spill(count, self.now)

    @invariant()
    def the_two_agree(self) -> None:
        assert self.redis.count() == self.memory.count()
        here, there = RedisBacklog(self.client, self.queue, 10**6).read(self.now), self.memory.read(self.now)
        assert self._order(here) == self._order(there)
        assert dict(here.overflow) == dict(there.overflow)
        held = {task.ref: task for task in self.redis.parked(HELD, self.now)}
        assert held == {task.ref: task for task in self.memory.parked(HELD, self.now)}
        cancelled = {task.ref: task for task in self.redis.parked(CANCELLED, self.now)}
        assert cancelled == {task.ref: task for task in self.memory.parked(CANCELLED, self.now)}

    def teardown(self) -> None:
        whats = ("overflow", "held", "cancelled", "moves", "lease", "fence")
        self.client.redis.delete(
            *(self.client.level_key(self.queue, level) for level in range(LEVELS)),
            *(self.client.queue_key(self.queue, what) for what in whats),
        )

    @staticmethod
    def _order(snapshot: Snapshot) -> list[list[PendingTask]]:
        return [list(tasks) for tasks in snapshot.levels]

    @staticmethod
    def _told(report: Report) -> tuple[Any, ...]:
        return report.role, list(report.moves), list(report.outcomes), report.spilled, report.foreign


def test_redis_agrees_with_the_model(server: Database) -> None:
    app = make_app(server.url)
    client = RedisClient.from_app(app)
    run_state_machine_as_test(
        lambda: Agreement(client),  # type: ignore[arg-type]  # any maker of a machine will do
        settings=settings(
            max_examples=settings().max_examples * 6 // 10,
            stateful_step_count=40,
            suppress_health_check=list(HealthCheck),
        ),
    )
    client.close()
    app.close()
