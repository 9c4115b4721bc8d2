"""Queues are shared out over the reprioritizers that run; none stays free, whoever comes and goes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_dynprio.brokers.memory import MemoryBroker
from celery_dynprio.engine.keeper import Keeper
from celery_dynprio.engine.planner import Planner
from celery_dynprio.engine.sharing import Needed, Sharing
from celery_dynprio.engine.tick import Reprioritizer
from celery_dynprio.models import Report, Role
from celery_dynprio.policies import Weight
from celery_dynprio.ports.lease import Kind
from celery_dynprio.stores.memory import MemoryUsage

TTL = 600.0


class Process:
    """A reprioritizer of these queues; it looks each time that it is told to."""

    def __init__(self, broker: MemoryBroker, queues: list[str], owner: str, kind: Kind = "dedicated") -> None:
        self.queues = queues
        self.now = 0.0
        leases = self.leases = broker.leases(queues, owner, kind, TTL)
        self.keeper = Keeper(TTL, renew=leases.renew)
        self.reprioritizers = [self._reprioritizer(broker, queue) for queue in queues]
        self.sharing = Sharing(leases, owner, kind, 1.0, TTL, clock=lambda: self.now)

    def _reprioritizer(self, broker: MemoryBroker, queue: str) -> Reprioritizer:
        return Reprioritizer(
            backlog=broker.backlog(queue),
            lease=self.leases.of(queue),
            planner=Planner(10, 100, 0.25),
            policy=1 * Weight(),
            usage=MemoryUsage(),
            paused=lambda: False,
            keeper=self.keeper,
        )

    def look(self) -> set[str]:
        """One look; return the queues that it leads now."""
        self.now += 1.0
        mine, others = self.sharing.look(self.reprioritizers)
        for each in others:
            assert each.stand_by().role is Role.STANDBY
        assert {each.backlog.queue for each in (*mine, *others)} == set(self.queues)
        for each in mine:
            assert each.tick().role is Role.LEADER
        return {each.backlog.queue for each in mine}

    def stop(self) -> None:
        for each in self.reprioritizers:
            each.close()
        self.sharing.leave()


def settled(processes: list[Process]) -> list[set[str]]:
    """What each leads once each has looked twice."""
    for process in processes:
        process.look()
    for process in processes:
        process.look()
    return [process.look() for process in processes]


def names(count: int) -> list[str]:
    return [f"queue {number}" for number in range(count)]


@given(queues=st.integers(1, 30), before=st.integers(1, 5), comes=st.integers(0, 4), goes=st.integers(0, 4))
def test_each_queue_is_led_by_one_and_each_has_its_part_whoever_comes_and_goes(
    queues: int, before: int, comes: int, goes: int
) -> None:
    broker = MemoryBroker()

    def check(processes: list[Process]) -> None:
        parts = settled(processes)
        assert Counter(queue for part in parts for queue in part) == Counter(names(queues))
        assert max(map(len, parts)) <= -(-queues // len(processes))

    processes = [Process(broker, names(queues), f"owner {number}") for number in range(before)]
    check(processes)
    processes += [Process(broker, names(queues), f"new {number}") for number in range(comes)]
    check(processes)
    for process in processes[: min(goes, len(processes) - 1)]:
        process.stop()
    check(processes[min(goes, len(processes) - 1) :])


def test_who_comes_later_takes_no_queue_from_one_who_has_no_more_than_its_part() -> None:
    broker = MemoryBroker()
    first = Process(broker, ["celery"], "first")
    assert first.look() == {"celery"}
    second = Process(broker, ["celery"], "second")
    assert settled([second, first]) == [set(), {"celery"}]


def test_a_dedicated_process_takes_over_from_embedded_ones_which_take_nothing_beside_it() -> None:
    broker = MemoryBroker()
    embedded = [Process(broker, names(7), f"worker {number}", "embedded") for number in range(2)]
    assert [len(part) for part in settled(embedded)] == [4, 3]
    dedicated = Process(broker, names(7), "dedicated")
    assert dedicated.look() == set(names(7))
    assert [process.look() for process in embedded] == [set(), set()]
    dedicated.stop()
    assert [len(part) for part in settled(embedded)] == [4, 3]


def test_who_has_other_queues_is_no_reason_to_leave_any() -> None:
    broker = MemoryBroker()
    some, every = Process(broker, names(2), "some"), Process(broker, names(6), "every")
    assert some.look() == set(names(2))
    assert every.look() == set(names(6)) - set(names(2))
    some.stop()
    assert every.look() == set(names(6))


def test_a_lease_that_ran_out_is_taken_again() -> None:
    broker = MemoryBroker()
    process = Process(broker, names(3), "only")
    process.look()
    for queue in names(2):
        broker.lease(queue, "only").acquire()
        other = broker.lease(queue, "an operator", "operator")
        assert other.acquire()
    assert process.look() == {"queue 2"}
    for queue in names(2):
        broker.lease(queue, "an operator", "operator").acquire()
        lease: Any = broker.lease(queue, "an operator", "operator")
        lease.acquire()
        lease.release()
    assert process.look() == set(names(3))


def test_between_looks_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(MemoryBroker(), names(3), "only")
    process.look()
    monkeypatch.setattr(process.leases, "holders", None)
    process.now += 0.5
    mine, others = process.sharing.look(process.reprioritizers)
    assert (len(mine), others) == (3, [])


def test_who_leads_nothing_is_needed_for_as_long_as_a_lease_lives() -> None:
    now = 0.0
    needed = Needed(10.0, clock=lambda: now)
    standing_by = [Report("celery", Role.STANDBY, 0.0)]
    assert needed.by(standing_by)
    now = 9.0
    assert needed.by([*standing_by, Report("mail", Role.PAUSED, 0.0)])
    now = 18.0
    assert needed.by(standing_by)
    now = 19.0
    assert not needed.by(standing_by)
