"""What the reprioritizer does for objectives, with an in-memory backlog and counts that are handed in."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from celery_dynprio.brokers.memory import MemoryBacklog
from celery_dynprio.brokers.redis.broker import ERRORS
from celery_dynprio.engine.guard import SETTLED_AFTER, Guard, Yielding
from celery_dynprio.engine.loop import serve
from celery_dynprio.engine.tick import Reprioritizer
from celery_dynprio.engine.ticklog import describe
from celery_dynprio.errors import BrokerUnavailableError
from celery_dynprio.models import OVERFLOW, Move, PendingTask, Role, Start, is_level
from celery_dynprio.objectives import Objective, Standing
from celery_dynprio.ports.stores import Attainment, UsageFigures
from celery_dynprio.runtimes import Runtimes
from celery_dynprio.stores.memory import MemoryUsage
from celery_dynprio.testing import MemoryLease
from tests.unit.test_reprioritizer import NOW, reprioritizer

CHECKOUTS = Objective("checkouts", "checkout", 5, 0.9, on_breach="degrade", expendable="report", hold_at_most=60)


class Attained(Attainment):
    """Nothing but what a guard needs."""

    def add(self, starts: Iterable[Start]) -> None: ...

    def close(self) -> None: ...


class Counts(Attained):
    """Attainment in this process; ``first`` is whether no other process is quicker."""

    def __init__(self, *standings: Standing, first: bool = True) -> None:
        self.standings = list(standings)
        self.first = first
        self.told: list[tuple[str, Mapping[int, int]]] = []

    def tell(self, queue: str, overdue: Mapping[int, int]) -> None:
        self.told.append((queue, overdue))
        self.standings = [replace(each, overdue=overdue.get(n, 0)) for n, each in enumerate(self.standings)]

    def read(self) -> Sequence[Standing]:
        return list(self.standings)

    def turn(self, standing: Standing) -> Standing | None:
        turned = replace(standing, since=NOW if standing.since is None else None)
        self.standings = [turned if each.objective is standing.objective else each for each in self.standings]
        return turned if self.first else None


def queue_of(*tasks: tuple[str, float]) -> MemoryBacklog:
    """Tasks of these names that have waited for so long, all in level 0, as a flood that workers take next."""
    made = MemoryBacklog("celery")
    made.fence = "1"
    for number, (name, waited) in enumerate(tasks):
        made.publish(PendingTask(str(number), name, NOW - waited), 0)
    return made


def guarded(queue: MemoryBacklog, counts: Counts, **options: Any) -> Reprioritizer:
    guard = Guard("celery", [each.objective for each in counts.standings], counts)
    return reprioritizer(queue, guard=guard, **options)


def places(queue: MemoryBacklog) -> dict[str, int]:
    snapshot = queue.read(NOW)
    front = {task.id: level for level, tasks in enumerate(snapshot.levels) for task in tasks}
    return front | dict.fromkeys(snapshot.overflow, OVERFLOW)


def test_a_breach_holds_back_what_is_expendable_until_it_recovers(caplog: pytest.LogCaptureFixture) -> None:
    queue = queue_of(("report", 59), ("checkout", 6), ("report", 60), ("other", 1), ("report", 0))
    counts = Counts(Standing(CHECKOUTS, started=10, in_time=9, rate=1))
    ticking = guarded(queue, counts)
    with caplog.at_level(logging.INFO, "celery_dynprio.guard"):
        report = ticking.tick()
    assert counts.told == [("celery", {0: 1})]
    assert {move.task.id: move.reason for move in report.moves if move.target == OVERFLOW} == dict.fromkeys(
        "04", "objective"
    )
    assert [each for each in "01234" if places(queue)[each] == OVERFLOW] == ["0", "4"]
    assert [(each.since, each.attained) for each in report.turned] == [(NOW, 9 / 11)]
    assert "'checkouts' is breached: 81.8% in time" in caplog.messages[0]
    report = ticking.tick()
    assert (report.held_back, list(report.turned)) == (2, [])
    assert "held back 2" in describe(report)

    queue.consume()
    counts.standings = [replace(counts.standings[0], started=100, in_time=96)]
    while "1" in places(queue):
        queue.consume()
    with caplog.at_level(logging.INFO, "celery_dynprio.guard"):
        assert list(ticking.tick().turned) == []
        ticking.clock = lambda: NOW + SETTLED_AFTER
        report = ticking.tick()
    assert report.turned[0].since is None
    assert "is met: 96.0% in time" in caplog.messages[-1]
    assert {move.task.id: move.reason for move in report.moves} == dict.fromkeys("04", "refill")
    assert OVERFLOW not in places(queue).values()


def test_what_is_held_back_does_not_keep_others_in_the_overflow() -> None:
    queue = queue_of(*[("report", 1)] * 20, *[("other", 1)] * 5)
    queue.apply([Move(task, 0, OVERFLOW, 0.5, "overflow") for task in queue.read(NOW).levels[0]])
    ticking = guarded(queue, Counts(Standing(CHECKOUTS, 10, 0, since=NOW, rate=1)), window=10)
    ticking.tick()
    assert sorted(int(each) for each, place in places(queue).items() if is_level(place)) == [20, 21, 22, 23, 24]


def test_a_dry_run_judges_tells_and_moves_nothing(caplog: pytest.LogCaptureFixture) -> None:
    queue = queue_of(("checkout", 6), ("report", 1))
    counts = Counts(Standing(CHECKOUTS, started=1))
    report = guarded(queue, counts, dry_run=True).tick()
    assert (counts.told, list(report.turned), caplog.messages) == ([], [], [])
    assert [each.since for each in report.standings] == [None]
    assert OVERFLOW not in places(queue).values()


def test_who_comes_second_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    report = guarded(queue_of(("checkout", 6)), Counts(Standing(CHECKOUTS, started=1), first=False)).tick()
    assert (list(report.turned), caplog.messages) == ([], [])


def test_who_does_not_lead_looks_at_nothing() -> None:
    counts = Counts(Standing(CHECKOUTS, started=1))
    assert not guarded(queue_of(("checkout", 6)), counts, lease=MemoryLease(None)).tick().standings
    assert counts.told == []


@pytest.mark.parametrize("failing", [False, True])
def test_the_hook_is_called_aside_and_may_fail(caplog: pytest.LogCaptureFixture, *, failing: bool) -> None:
    called, seen = threading.Event(), []

    def hook(standing: Standing) -> None:
        seen.append((threading.current_thread() is threading.main_thread(), standing.since))
        called.set()
        if failing:
            raise ValueError("of no use")

    counts = Counts(Standing(replace(CHECKOUTS, hook=hook), started=1))
    guarded(queue_of(("checkout", 6)), counts).tick()
    assert called.wait(10)
    for thread in threading.enumerate():
        if thread.name == "dynprio objective hook":
            thread.join(10)
    assert seen == [(False, NOW)]
    assert any("the hook of objective 'checkouts' failed" in each for each in caplog.messages) is failing


def test_two_objectives_that_are_breached_do_not_hold_back_each_other() -> None:
    search = Objective("search", "shop.search", 5, on_breach="degrade", expendable="shop.*")
    checkouts = Objective("checkouts", "shop.checkout", 5, on_breach="degrade", expendable="shop.*")
    first, second, other = (PendingTask(name, f"shop.{name}", NOW - 6) for name in ("checkout", "search", "report"))
    both = Yielding([Standing(checkouts, since=NOW), Standing(search, since=NOW)], NOW)
    assert [both.to(task) for task in (first, second, other)] == [None, checkouts, checkouts]
    later = Yielding([Standing(checkouts), Standing(search, since=NOW)], NOW)
    assert [later.to(task) for task in (first, second, other)] == [search, None, search]


@pytest.mark.parametrize("published", [NOW + 61, 1e15, NOW - 60, 0.0])
def test_a_clock_that_is_wrong_holds_nothing_back(published: float) -> None:
    yielding = Yielding([Standing(CHECKOUTS, since=NOW)], NOW)
    assert not yielding.yields(PendingTask("1", "report", published))
    assert yielding.yields(PendingTask("1", "report", NOW + 59))


def test_a_task_with_an_eta_is_not_overdue() -> None:
    queue = queue_of(("checkout", 6))
    queue.publish(PendingTask("later", "checkout", NOW - 6, scheduled=True), 0)
    counts = Counts(Standing(CHECKOUTS, started=100, in_time=100))
    guarded(queue, counts).tick()
    assert counts.told == [("celery", {0: 1})]


def test_the_end_waits_a_while_for_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery_dynprio.engine.loop.HOOK_TIMEOUT", 60.0)
    may_end, seen = threading.Event(), []

    def hook(standing: Standing) -> None:
        if may_end.wait(60):
            seen.append(standing)

    stop = threading.Event()
    ticking = guarded(queue_of(("checkout", 6)), Counts(Standing(replace(CHECKOUTS, hook=hook), started=1)))
    close = ticking.backlog.close

    def closing() -> None:
        close()
        may_end.set()

    ticking.backlog.close = closing  # type: ignore[method-assign]
    serve([ticking], 1.0, stop, finished=lambda _: True, errors=ERRORS)
    assert len(seen) == 1


def test_no_thread_for_the_hook_costs_no_tick(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    ticking = guarded(queue_of(("checkout", 6)), Counts(Standing(replace(CHECKOUTS, hook=print), started=1)))
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert ticking.tick().turned
    assert "could not be called" in caplog.text


def test_the_next_tick_tells_of_a_breach_that_a_failed_one_found() -> None:
    queue = queue_of(("checkout", 6), ("report", 1))
    ticking = guarded(queue, Counts(Standing(CHECKOUTS, started=1)))
    queue.fence = "another"
    lost = ticking.tick()
    assert (lost.role, [each.since for each in lost.turned]) == (Role.STANDBY, [NOW])
    assert not ticking.tick().turned

    class Away(MemoryBacklog):
        def apply(self, *_: Any, **__: Any) -> list[Any]:
            raise BrokerUnavailableError("away")

    away = Away("celery")
    away.publish(PendingTask("1", "checkout", NOW - 6), 0)
    away.publish(PendingTask("2", "report", NOW), 0)
    ticking = guarded(away, Counts(Standing(CHECKOUTS, started=1)))
    with pytest.raises(BrokerUnavailableError):
        ticking.tick()
    ticking.backlog = queue_of()
    assert [each.since for each in ticking.tick().turned] == [NOW]


def test_while_all_is_paused_it_is_told_what_is_held_back_and_nobody_judges() -> None:
    queue = queue_of(("report", 1), ("checkout", 6))
    counts = Counts(Standing(CHECKOUTS, started=1))
    guarded(queue, counts).tick()
    counts.standings, counts.told = [replace(counts.standings[0], started=100, in_time=100, overdue=0)], []
    report = guarded(queue, counts, paused=lambda: True, watched=True).tick()
    assert (report.role, report.held_back, counts.told) == (Role.PAUSED, 1, [])
    assert [each.since for each in report.standings] == [NOW]


def test_what_was_overdue_and_has_just_started_is_no_recovery_before_its_worker_tells() -> None:
    now = [NOW]
    queue = queue_of(("checkout", 6))
    counts = Counts(Standing(CHECKOUTS))
    ticking = guarded(queue, counts)
    ticking.clock = lambda: now[0]
    assert [each.since for each in ticking.tick().turned] == [NOW]
    queue.consume()
    in_time, late = Standing(CHECKOUTS, 3, 3, since=NOW), Standing(CHECKOUTS, 5, 3, since=NOW)
    nothing = Standing(CHECKOUTS, since=NOW)
    steps = [(1.0, in_time), (3.9, nothing), (3.95, late), (5.0, in_time), (7.9, nothing), (8.1, nothing)]
    for later, standing in steps:
        now[0], counts.standings = NOW + later, [standing]
        report = ticking.tick()
        assert [each.since for each in report.turned] == ([None] if later > 8 else [])


def test_a_clock_that_goes_back_and_a_pause_begin_the_seconds_of_a_recovery_anew() -> None:
    now, paused = [NOW], [False]
    ticking = guarded(queue_of(), Counts(Standing(CHECKOUTS, since=NOW)), paused=lambda: paused[0], watched=True)
    ticking.clock = lambda: now[0]
    steps = [(0, False), (-3600, False), (-3598, False), (-3598, True), (-3596, False), (-3594, False), (-3593, False)]
    for later, pause in steps:
        now[0], paused[0] = NOW + later, pause
        assert [each.since for each in ticking.tick().turned] == ([None] if later == -3593 else [])


class Breach(Attained):
    """An objective that is breached for as long as the test lasts; ``rate`` promised tasks start in a second."""

    def __init__(self, rate: float) -> None:
        self.standing = Standing(CHECKOUTS, 100, 0, since=NOW, rate=rate)

    def tell(self, queue: str, overdue: Mapping[int, int]) -> None:  # noqa: ARG002 - there is one
        self.standing = replace(self.standing, overdue=overdue.get(0, 0))

    def read(self) -> Sequence[Standing]:
        return [self.standing]

    def turn(self, standing: Standing) -> Standing | None:
        raise AssertionError(standing)


class Learned(MemoryUsage):
    def __init__(self, runtimes: Mapping[str, float]) -> None:
        super().__init__()
        self.runtimes = runtimes

    def read(self, now: float) -> UsageFigures:  # noqa: ARG002 - nothing ages here
        return UsageFigures(Runtimes(self.runtimes), {})


def simulated(
    slots: int,
    seconds: float,
    *,
    every: float,
    runtimes: Mapping[str, float],
    reports: int = 95,
    known: bool = True,
    eager: bool = True,
) -> tuple[list[float], int]:
    """Workers with so many slots, a promised task every so often: the waits of those, and how many reports started.

    A worker that is not ``eager`` takes its next tasks only when all that it had have ended.
    """
    now, started, step = NOW, 0, 0.05
    waits: list[float] = []
    busy: list[float] = []
    queue = queue_of(*[("report", 0)] * reports)
    learned = Learned(runtimes if known else {})
    ticking = guarded_by(Breach(rate=1 / every if every < seconds else 0), queue, slots, learned)
    ticking.clock = lambda: now
    for number in range(round(seconds / step)):
        now = NOW + number * step
        if number % round(every / step) == 0 and every < seconds:
            queue.publish(PendingTask(f"c{number}", "checkout", now, weight=10), 0)
        if number % 20 == 0:
            ticking.tick()
        busy = [end for end in busy if end > now + step / 2]
        if busy and not eager:
            continue
        while len(busy) < slots and (task := queue.consume()):
            busy.append(now + runtimes[task.name])
            started += task.name == "report"
            waits += [now - task.published] if task.name == "checkout" else []
    return waits, started


def guarded_by(breach: Breach, queue: MemoryBacklog, slots: int, learned: Learned) -> Reprioritizer:
    guard = Guard("celery", [replace(CHECKOUTS, hold_at_most=1e6)], breach, lambda _: slots)
    breach.standing = replace(breach.standing, objective=replace(CHECKOUTS, hold_at_most=1e6))
    ticking = reprioritizer(queue, guard=guard)
    ticking.usage = learned
    return ticking


def test_nothing_is_held_back_while_nothing_promised_comes() -> None:
    waits, started = simulated(4, 120, every=1e9, runtimes={"checkout": 0.1, "report": 3.0})
    assert (waits, started) == ([], 95)


@pytest.mark.parametrize(
    ("slots", "every", "runtimes", "least"),
    [
        (4, 1.0, {"checkout": 0.1, "report": 10.0}, 0.8 * 3 * 6),  # three of four slots for reports
        (2, 0.5, {"checkout": 0.1, "report": 3.0}, 0.7 * 1 * 20),  # one of two, empty until the next tick
        (4, 1.0, {"checkout": 0.1, "report": 0.2}, 95),  # many short ones in each tick
        (8, 0.5, {"checkout": 1.0, "report": 10.0}, 0.8 * 4 * 6),  # two slots' worth of promised tasks need four
    ],
)
def test_expendable_work_runs_in_the_slots_that_promised_tasks_do_not_need(
    slots: int, every: float, runtimes: Mapping[str, float], least: float
) -> None:
    waits, started = simulated(slots, 60, every=every, runtimes=runtimes)
    assert started >= least
    assert sum(wait > 0.1 for wait in waits) <= 0.05 * len(waits)


@pytest.mark.parametrize("known", [True, False])
def test_the_only_slot_is_kept_for_the_promised(*, known: bool) -> None:
    waits, started = simulated(1, 60, every=0.5, runtimes={"checkout": 0.1, "report": 3.0}, known=known)
    assert (max(waits), started) == (0, 0)


def test_who_does_not_know_a_runtime_lets_as_many_run_as_there_are_slots() -> None:
    _, started = simulated(4, 60, every=1.0, runtimes={"checkout": 0.1, "report": 10.0}, known=False)
    assert started == 3


def test_less_and_less_is_let_in_if_promised_tasks_wait_for_it_all_the_same() -> None:
    waits, started = simulated(2, 300, every=0.5, runtimes={"checkout": 0.1, "report": 6.0}, eager=False)
    assert 3 <= started <= 8, "with each report the promised wait; pauses of 10, 20, 40, 80 and 160 s"
    assert sum(wait > CHECKOUTS.within for wait in waits) < 0.05 * len(waits)


def test_nothing_is_let_through_while_a_promised_task_is_late() -> None:
    queue = queue_of(("report", 1))
    queue.publish(PendingTask("late", "checkout", NOW - 3), 0)
    guarded_by(Breach(rate=0), queue, 8, Learned({})).tick()
    assert places(queue)["0"] == OVERFLOW
