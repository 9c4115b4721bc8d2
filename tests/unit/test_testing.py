"""What users import in their own tests does what it says."""

from __future__ import annotations

from celery_dynprio import Age, Deadline, FairShare, ShortestFirst, Weight
from celery_dynprio.ports.lease import Holder
from celery_dynprio.testing import NOW, MemoryLease, pending_task, ranked


def test_tasks_are_ranked_as_the_policy_wants_them() -> None:
    old_report = pending_task("reports.page", waited=600)
    checkout = pending_task("shop.checkout", weight=9, deadline=5)
    policy = 4 * Deadline(horizon=60) + 2 * Weight() + 1 * Age(saturation=600)
    assert ranked(policy, [old_report, checkout]) == [checkout, old_report]


def test_equals_are_ranked_by_age() -> None:
    tasks = [pending_task(waited=seconds) for seconds in (1, 3, 2)]
    assert ranked(1 * Weight(), tasks) == [tasks[1], tasks[2], tasks[0]]


def test_what_was_learned_counts() -> None:
    long, short = pending_task("long", key="ada"), pending_task("short", key="bob")
    assert ranked(1 * ShortestFirst(), [long, short], runtimes={"long": 100.0, "short": 1.0}) == [short, long]
    assert ranked(1 * FairShare(), [short, long], use={"ada": 1.0, "bob": 9.0}) == [long, short]


def test_a_task_is_what_was_asked_for() -> None:
    task = pending_task("a.task", waited=2, weight=3, deadline=4, key="ada", dependents=5)
    assert (task.name, task.published, task.weight, task.deadline) == ("a.task", NOW - 2, 3, NOW + 4)
    assert (task.key, task.dependents, task.pinned) == ("ada", 5, None)


def test_a_lease_that_is_free_and_one_that_is_not() -> None:
    free, taken = MemoryLease(), MemoryLease(None)
    assert (free.acquire(), free.holder()) == ("1", Holder("testing", "dedicated", 1))
    free.release()
    assert free.holder() is None
    assert taken.acquire() is None
