"""The tick, with an in-memory backlog: everything it works with is handed in."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from celery_dynprio.brokers.memory import MemoryBacklog
from celery_dynprio.brokers.redis.broker import ERRORS
from celery_dynprio.engine.guiding import Guiding
from celery_dynprio.engine.loop import serve
from celery_dynprio.engine.planner import Planner
from celery_dynprio.engine.tick import Reprioritizer
from celery_dynprio.engine.ticklog import TickLog, describe, planned
from celery_dynprio.errors import LeaseLostError
from celery_dynprio.levels import NARROWEST
from celery_dynprio.models import OVERFLOW, Context, Outcome, PendingTask, Report, Role
from celery_dynprio.policies import Age, Policy, Weight, default_policy, factor
from celery_dynprio.ports.guidance import Guidance
from celery_dynprio.ports.stores import UsageFigures
from celery_dynprio.protocol1 import NOT_JSON
from celery_dynprio.runtimes import Runtimes
from celery_dynprio.stores.memory import MemoryUsage
from celery_dynprio.testing import MemoryLease

NOW = 1000.0


def backlog(*levels: Any) -> MemoryBacklog:
    """A queue with tasks of these weights, given as (level, weight) in the order of publishing."""
    made = MemoryBacklog("celery")
    made.fence = "1"
    for number, (level, weight) in enumerate(levels):
        made.publish(PendingTask(str(number), "a.task", NOW - 100 + number, weight), level)
    return made


def reprioritizer(backlog: MemoryBacklog, **options: Any) -> Reprioritizer:
    policy = options.pop("policy", 1 * Weight())
    lease = options.pop("lease", MemoryLease())
    window = options.pop("window", 100)
    return Reprioritizer(
        backlog,
        lease,
        Planner(10, window, 0.25),
        policy,
        options.pop("usage", MemoryUsage()),
        options.pop("paused", lambda: False),
        window=window,
        clock=lambda: NOW,
        **options,
    )


def order(backlog: MemoryBacklog) -> list[str]:
    return [task.id for level in backlog.read(NOW).levels for task in level]


def test_a_tick_puts_the_heaviest_first() -> None:
    queue = backlog((5, 1.0), (5, 9.0), (5, 5.0))
    report = reprioritizer(queue).tick()
    assert order(queue) == ["1", "2", "0"]
    assert (report.role, report.read, report.front) == (Role.LEADER, 3, 3)
    assert set(report.outcomes) == {Outcome.MOVED}
    assert "read 3 of 3, moved" in describe(report)


def test_until_tasks_were_seen_to_leave_all_are_put_in_order_and_then_those_that_run_next() -> None:
    queue, now = backlog(*((5, 1.0 + weight / 5) for weight in range(40))), NOW
    ticking = reprioritizer(queue)
    ticking.clock = lambda: now
    ticking.tick()
    levels = queue.read(NOW).levels
    assert [min(task.weight for task in level) for level in levels] == sorted(
        [min(task.weight for task in level) for level in levels], reverse=True
    )
    for _ in range(5):
        assert queue.consume() is not None
        now += 1.0
        ticking.tick()
    queue.publish(PendingTask("last", "a.task", now, 0.0), 8)
    queue.publish(PendingTask("next", "a.task", now, 10.0), 8)
    ticking.tick()
    levels = queue.read(NOW).levels
    assert "next" in {task.id for task in levels[0]}
    assert "last" in {task.id for task in levels[8]}


@pytest.mark.parametrize(
    ("options", "role"),
    [
        ({"lease": MemoryLease(None)}, Role.STANDBY),
        ({"paused": lambda: True}, Role.PAUSED),
        ({"lease": MemoryLease("stale")}, Role.STANDBY),
        ({"dry_run": True}, Role.DRY_RUN),
    ],
)
def test_who_may_not_move_moves_nothing(options: dict[str, Any], role: Role) -> None:
    queue = backlog((5, 1.0), (5, 9.0))
    report = reprioritizer(queue, **options).tick()
    assert report.role is role
    assert order(queue) == ["0", "1"]
    assert not report.outcomes
    assert len(report.moves) == (2 if role is Role.DRY_RUN else 0)


def test_what_was_read_is_reported_and_while_paused_only_to_who_watches() -> None:
    queue = backlog((5, 1.0), (5, 9.0))
    for options in ({"dry_run": True}, {"paused": lambda: True, "watched": True}):
        report = reprioritizer(queue, **options).tick()
        assert report.snapshot is not None
        assert (report.read, report.front, report.snapshot.depths[5]) == (2, 2, 2)
    assert reprioritizer(queue, paused=lambda: True).tick().snapshot is None
    assert reprioritizer(queue, lease=MemoryLease(None), watched=True).tick().snapshot is None


def test_a_deep_front_is_parked_in_bulk_and_comes_back_best_first() -> None:
    queue = backlog(*((5, float(n % 10)) for n in range(200)))
    ticking = reprioritizer(queue, window=50)
    report = ticking.tick()
    assert report.spilled == 100
    assert ticking.tick().spilled == 50
    assert queue.count()[OVERFLOW] >= 145
    for _ in range(10):
        ticking.tick()
    weights = [task.weight for level in queue.read(NOW).levels for task in level]
    assert len(weights) == 50
    assert min(weights) >= 7.0  # the 60 heaviest of 200 weigh 7, 8 or 9


def test_the_flood_of_an_unknown_tenant_sends_one_task_ahead_and_overtakes_nobody_with_the_others() -> None:
    class Used(MemoryUsage):
        def read(self, now: float) -> UsageFigures:  # noqa: ARG002 - nothing ages here
            return UsageFigures(Runtimes({"job": 0.1}), {"acme": 1.2, "bolt": 1.2})

    queue = MemoryBacklog("celery")
    queue.fence = "1"
    for number in range(100):
        key = "acme" if number < 40 else "newco"
        queue.publish(PendingTask(str(number), "job", NOW - 1 + number / 1000, key=key), 5)
    ticking = reprioritizer(queue, policy=default_policy(), usage=Used())
    for _ in range(20):
        ticking.tick()
    assert [each for each in order(queue) if each != "40"] == [str(number) for number in range(100) if number != 40]
    assert "40" in order(queue)[:20]


def broken(_: PendingTask, __: Context) -> float:
    raise RuntimeError("no idea")


def test_a_policy_broken_from_the_start_leaves_the_order(caplog: pytest.LogCaptureFixture) -> None:
    queue = backlog((7, 1.0), (2, 1.0), (5, 1.0))
    ticking = reprioritizer(queue, policy=1 * factor(broken))
    for _ in range(5):
        ticking.tick()
    assert order(queue) == ["1", "2", "0"]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "the last scores stand" in caplog.text


def test_the_lease_is_given_back_at_the_end() -> None:
    lease = MemoryLease()
    stop = threading.Event()
    seen: list[Report] = []

    def observe(report: Report) -> None:
        seen.append(report)
        stop.set()

    serve([reprioritizer(backlog((5, 1.0)), lease=lease)], 0.01, stop, observe, errors=ERRORS)
    assert len(seen) == 1
    assert lease.released


def test_trouble_in_one_queue_does_not_stop_another(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(MemoryBacklog):
        def read(self, now: float, **_: Any) -> Any:
            raise ConnectionError(f"away at {now}")

    failing = Failing("orders")
    failing.fence = "1"
    stop, seen = threading.Event(), list[Report]()
    serve(
        [reprioritizer(failing), reprioritizer(backlog((5, 1.0)))],
        0.01,
        stop,
        seen.append,
        finished=lambda reports: len(reports) == 1,
        errors=ERRORS,
    )
    assert [report.queue for report in seen] == ["celery"]
    assert "orders: the broker does not answer: away at 1000.0; trying again" in caplog.text


def test_failures_are_told_and_the_loop_goes_on() -> None:
    class Away(MemoryBacklog):
        def read(self, now: float, **_: Any) -> Any:
            raise ConnectionError(f"at {now}")

    stop, told = threading.Event(), []

    def failed(queue: str, problem: Exception) -> None:
        told.append((queue, type(problem)))
        stop.set()

    away = Away("celery")
    away.fence = "1"
    serve([reprioritizer(away)], 0.01, stop, errors=ERRORS, failed=failed)
    assert told == [("celery", ConnectionError)]


def test_only_a_tick_that_changed_something_is_news(caplog: pytest.LogCaptureFixture) -> None:
    seconds = count()
    paused, log, queue = [False], TickLog(ERRORS, lambda: float(next(seconds))), backlog((5, 1.0))
    ticking = reprioritizer(queue, paused=lambda: paused[0])

    def levels(ticks: int) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.DEBUG, "celery_dynprio"):
            for _ in range(ticks):
                log.observe(ticking.tick())
        assert all(each.getMessage().startswith("dynprio celery: ") for each in caplog.records)
        return [each.levelname for each in caplog.records]

    assert levels(3) == ["INFO", "DEBUG", "DEBUG"]
    queue.publish(PendingTask("heavy", "a.task", NOW, 9.0), 9)
    assert levels(2) == ["INFO", "DEBUG"]
    paused[0] = True
    assert levels(3) == ["INFO", "DEBUG", "DEBUG"]
    log.failed("celery", ConnectionError("away"))
    assert levels(2) == ["INFO", "DEBUG"]


def test_many_ticks_that_change_something_are_one_line_a_second(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    log, report = TickLog(ERRORS, lambda: now), reprioritizer(backlog((5, 1.0), (5, 9.0))).tick()

    def lines(*seconds: float) -> list[str]:
        nonlocal now
        caplog.clear()
        for each in seconds:
            now += each
            log.observe(report)
        return [each.getMessage().partition(", in ")[0] for each in caplog.records]

    caplog.set_level(logging.INFO, "celery_dynprio")
    assert lines(0.0) == ["dynprio celery: read 2 of 2, moved 2, parked 0"]
    assert lines(*[0.1] * 9) == []
    assert lines(0.2) == ["dynprio celery: read 2 of 2, moved 20, parked 0"]
    assert lines(0.1) == []
    report = replace(report, moves=(), outcomes=())
    assert lines(1.0) == ["dynprio celery: read 2 of 2, moved 2, parked 0"]
    assert lines(1.0) == []


def test_a_lease_that_is_lost_in_the_middle_makes_a_standby() -> None:
    class Fenced(MemoryBacklog):
        def apply(self, moves: Any, fence: str | None = None, audit: str = "") -> list[Outcome]:  # noqa: ARG002
            raise LeaseLostError(f"{fence}: {len(moves)}")

    queue = Fenced("celery")
    queue.publish(PendingTask("1", "a.task", NOW, 9.0), 9)
    assert reprioritizer(queue).tick().role is Role.STANDBY


def test_no_task_waits_for_ever_under_a_policy_with_age() -> None:
    """Heavier tasks keep coming as fast as they are served; the light one runs all the same."""
    queue = MemoryBacklog("celery")
    queue.fence = "1"
    now, number = NOW, 0
    policy: Policy = 9 * Weight() + 1 * Age(saturation=10)
    ticking = reprioritizer(queue, policy=policy)
    clock: Callable[[], float] = lambda: now  # noqa: E731 - it reads the loop's time
    ticking.clock = clock
    queue.publish(PendingTask("light", "a.task", now, 0.0), 9)
    for _ in range(40):
        queue.publish(PendingTask(f"waiting {_}", "a.task", now, 9.0), 0)
    for _ in range(300):
        now += 1.0
        for _ in range(5):
            number += 1
            queue.publish(PendingTask(str(number), "a.task", now, 9.0), 0)
        ticking.tick()
        served = [queue.consume() for _ in range(5)]
        if any(task is not None and task.id == "light" for task in served):
            return
    pytest.fail("the light task starved")


def test_a_dry_run_tells_what_it_would_do() -> None:
    queue = backlog((5, 1.0), (5, 9.0))
    report = reprioritizer(queue, dry_run=True).tick()
    assert [(move.task.id, move.source, move.target, move.reason) for move in report.moves] == [
        ("1", 5, 0, "score"),
        ("0", 5, 9, "score"),
    ]
    assert describe(report).startswith("celery: dry run, read 2 of 2, would move 2, in ")
    assert [line.partition(":")[0] for line in planned(report)] == [
        f"would move {move.task.name}[{move.task.id}] from P{move.source} to P{move.target}" for move in report.moves
    ]
    many = replace(report, moves=[*report.moves] * 15)
    assert list(planned(many))[20:] == ["would move 10 more"]


def test_the_line_of_a_tick_says_why_messages_are_left_alone() -> None:
    report = Report("celery", Role.LEADER, 0.0, foreign={"not JSON": 1, NOT_JSON: 2})
    assert "left alone 3 (not JSON: 1; protocol 1, body not JSON: 2), in" in describe(report)


def test_a_dry_run_tells_of_tasks_that_a_priority_pins() -> None:
    queue = backlog((5, 1.0))
    queue.publish(PendingTask("pinned", "a.task", NOW, pinned=5), 3)
    assert "would move 2, 1 pinned by a priority of their own" in describe(reprioritizer(queue, dry_run=True).tick())


class Told:
    """A guidance store that may be broken."""

    def __init__(self, problem: Exception | None = None) -> None:
        self.problem = problem
        self.guidance: list[Guidance] = []

    def publish(self, queue: str, guidance: Guidance) -> None:
        if self.problem:
            raise self.problem
        assert queue == "celery"
        self.guidance.append(guidance)

    def read(self, queues: Collection[str]) -> Mapping[str, Guidance]:
        raise NotImplementedError


class Used(MemoryUsage):
    """Two tasks of one key were run."""

    def read(self, now: float) -> UsageFigures:  # noqa: ARG002 - nothing ages here
        return UsageFigures(Runtimes({"a.task": 2.0}), {"acme": 3.0})


def test_producers_are_told_once_a_second_and_only_while_something_waits() -> None:
    queue, store, now = backlog((5, 1.0), (5, 9.0)), Told(), NOW
    leader = reprioritizer(queue, guiding=Guiding(store, "celery"), usage=Used())
    leader.clock = lambda: now
    leader.tick()
    assert [(dict(each.runtimes), each.use) for each in store.guidance] == [({"a.task": 2.0}, {"acme": 3.0})]
    assert store.guidance[0].bands.level(0.9) < store.guidance[0].bands.level(0.1)
    now += 0.9
    leader.tick()
    assert len(store.guidance) == 1
    now += 0.1
    leader.tick()
    assert len(store.guidance) == 2
    while queue.consume():
        pass
    now += 10
    leader.tick()
    assert len(store.guidance) == 2


@pytest.mark.parametrize("pinned", [None, 3])
def test_the_bands_of_a_queue_without_scores_begin_with_its_first_score(pinned: int | None) -> None:
    queue, store, now = backlog(), Told(), NOW
    leader = reprioritizer(queue, guiding=Guiding(store, "celery"))
    leader.clock = lambda: now
    if pinned is not None:
        queue.publish(PendingTask("pinned", "a.task", now, pinned=pinned), pinned)
    for _ in range(3):
        leader.tick()
        now += 1.0
    queue.publish(PendingTask("first", "a.task", now, 5.0), 5)
    leader.tick()
    bands = store.guidance[-1].bands
    assert bands.high - bands.low == pytest.approx(NARROWEST)


def test_a_dry_run_tells_producers_nothing() -> None:
    store = Told()
    reprioritizer(backlog((5, 1.0)), guiding=Guiding(store, "celery"), dry_run=True).tick()
    assert not store.guidance


def test_a_store_that_takes_no_guidance_costs_no_tick(caplog: pytest.LogCaptureFixture) -> None:
    queue = backlog((5, 1.0), (5, 9.0))
    reprioritizer(queue, guiding=Guiding(Told(OSError("full")), "celery")).tick()
    assert order(queue) == ["1", "0"]
    assert "producers are not told how tasks are put in order: OSError('full')" in caplog.text
