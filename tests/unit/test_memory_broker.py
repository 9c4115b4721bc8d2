"""The whole reprioritizer on a broker in memory, put together as a process puts it together on Redis."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from celery_dynprio.assembly import reprioritizers
from celery_dynprio.brokers.memory import MemoryBroker
from celery_dynprio.engine.loop import serve
from celery_dynprio.models import HELD, OVERFLOW, Move, Outcome, PendingTask, Report, Role
from celery_dynprio.policies import Weight
from celery_dynprio.settings import Settings

NOW = 1_700_000_000.0


class Shop:
    """One managed queue on a broker in memory, whose clock stands still, and its reprioritizers."""

    def __init__(self) -> None:
        self.broker = MemoryBroker(clock=lambda: NOW)
        self.backlog = self.broker.backlog("celery")
        self.settings = Settings(policy=1 * Weight(), interval=0.001, window=20)
        self.published: dict[str, PendingTask] = {}

    def publish(self, *weights: float) -> None:
        for weight in weights:
            name = f"{len(self.published)} of weight {weight:g}"
            task = self.published[name] = PendingTask(name, "a.task", NOW - 100 + len(self.published), weight)
            self.backlog.publish(task, 5)

    def serve(self, ticks: int = 1) -> list[Report]:
        """Run the loop for so many rounds of ticks."""
        reports: list[Report] = []

        def finished(_: Sequence[Report]) -> bool:
            return len(reports) >= ticks

        serve(
            reprioritizers(self.broker, self.settings, "one"),
            self.settings.interval,
            threading.Event(),
            reports.append,
            finished,
            errors=self.broker.errors,
            failed=_raise,
        )
        return reports

    def move(self, name: str, source: int, target: int) -> Outcome:
        (outcome,) = self.backlog.apply([Move(self.published[name], source, target, 0.5, "by hand")])
        return outcome

    def consume(self) -> list[float]:
        """Take all tasks of the front as workers do; return their weights."""
        return [task.weight for task in iter(self.backlog.consume, None)]


def _raise(queue: str, problem: Exception) -> None:
    raise problem


@pytest.fixture
def shop() -> Shop:
    return Shop()


def test_the_loop_puts_tasks_in_order_and_gives_the_lease_back(shop: Shop) -> None:
    shop.publish(1, 9, 5, 7, 3)
    (report,) = shop.serve()
    assert (report.role, report.read, set(report.outcomes)) == (Role.LEADER, 5, {Outcome.MOVED})
    assert shop.broker.lease("celery", "somebody").holder() is None
    assert shop.consume() == [9, 7, 5, 3, 1]


def test_what_arrives_between_two_ticks_is_put_in_order_too(shop: Shop) -> None:
    shop.publish(1, 5)
    shop.serve()
    shop.publish(3, 9)
    shop.serve()
    assert shop.consume() == [9, 5, 3, 1]


def test_what_does_not_fit_into_the_window_is_parked_and_comes_back(shop: Shop) -> None:
    shop.publish(*(number % 10 for number in range(60)))
    assert sum(report.spilled for report in shop.serve(3)) == 40
    assert shop.backlog.count()[OVERFLOW] == 40
    weights: list[float] = []
    while front := shop.consume():
        weights += front
        shop.serve(2)
    assert sorted(weights) == sorted(number % 10 for number in range(60))
    assert min(weights[:20]) >= 6  # the 24 heaviest of the 60 weigh 6 to 9


def test_a_held_task_waits_until_it_is_released(shop: Shop) -> None:
    shop.publish(1, 9, 5)
    assert shop.move("1 of weight 9", 5, HELD) is Outcome.MOVED
    (report,) = shop.serve()
    assert (report.front, report.held) == (2, 1)
    ((found,),) = shop.backlog.find(["1 of weight 9"], NOW).values()
    assert found.place == HELD
    assert shop.move("1 of weight 9", HELD, 9) is Outcome.MOVED
    shop.serve()
    assert shop.consume() == [9, 5, 1]


def test_while_an_operator_pauses_nothing_moves(shop: Shop) -> None:
    shop.publish(1, 9)
    shop.broker.stores.switch().pause()
    assert [report.role for report in shop.serve()] == [Role.PAUSED]
    shop.broker.stores.switch().resume()
    assert [report.role for report in shop.serve()] == [Role.LEADER]
    assert shop.consume() == [9, 1]


def test_of_two_reprioritizers_one_leads_until_it_ends(shop: Shop) -> None:
    shop.publish(1, 9)
    (one,), (two,) = (reprioritizers(shop.broker, shop.settings, owner) for owner in ("one", "two"))
    assert [each.tick().role for each in (one, two)] == [Role.LEADER, Role.STANDBY]
    one.close()
    assert two.tick().role is Role.LEADER
    two.close()
    assert shop.consume() == [9, 1]
