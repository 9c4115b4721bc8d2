"""When each queue is ticked."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_dynprio.engine.pace import MOST_IDLE, SHARE, SHORTEST, Pace
from celery_dynprio.engine.tick import Reprioritizer
from celery_dynprio.models import Report, Role


class Rounds:
    """The queues of one process, played by the clock of a test."""

    def __init__(self, *queues: str, rest: float = 30.0, asks: bool = True) -> None:
        self.now = 0.0
        self.found: set[str] = set()
        self.asked: list[set[str]] = []
        self.problem: Exception | None = None
        self.pace = Pace(1.0, self.occupied if asks else None, lambda: self.now)
        self.all = [self._reprioritizer(each, rest) for each in queues]

    def _reprioritizer(self, queue: str, rest: float) -> Reprioritizer:
        def rest_on(last: Report | None) -> Report:
            return last or Report(queue, Role.LEADER, self.now)

        backlog = SimpleNamespace(queue=queue)
        return cast("Reprioritizer", SimpleNamespace(backlog=backlog, rest=rest, leads=True, rest_on=rest_on))

    def occupied(self, queues: Collection[str]) -> set[str]:
        self.asked.append(set(queues))
        if self.problem:
            raise self.problem
        return self.found & set(queues)

    def play(self, seconds: float, failing: Collection[str] = (), **figures: Any) -> list[str]:
        """One round after so many seconds, with the figures of each report; return which queues were ticked."""
        self.now += seconds
        due = self.pace.due(self.all)
        names = [each.backlog.queue for each in due]
        reports = [
            Report(name, figures.get("role", Role.LEADER), self.now, front=figures.get(name, 0))
            for name in names
            if name not in failing
        ]
        self.pace.note(due, reports)
        self.idle = queues(self.pace.idle())
        return names


def test_a_queue_in_which_something_waits_is_ticked_in_each_round_and_others_once_in_an_interval() -> None:
    rounds = Rounds("busy", "empty", asks=False)
    assert rounds.play(0, busy=5) == ["busy", "empty"]
    assert [rounds.play(0.25, busy=5) for _ in range(4)] == [["busy"], ["busy"], ["busy"], ["busy", "empty"]]


@pytest.mark.parametrize("role", [Role.STANDBY, Role.PAUSED, Role.DRY_RUN])
def test_who_moves_nothing_does_not_hurry(role: Role) -> None:
    rounds = Rounds("busy")
    rounds.play(0, role=role, busy=5)
    assert rounds.pace.pause(0.001) == 1.0
    assert rounds.play(0.5, role=role, busy=5) == []
    assert rounds.play(0.5, role=role, busy=5) == ["busy"]


@given(st.floats(0, 10), st.sampled_from([0.05, 0.5, 1.0, 60.0]))
def test_ticks_take_a_twentieth_of_the_time_unless_the_interval_says_otherwise(seconds: float, interval: float) -> None:
    pace = Pace(interval)
    assert pace.pause(seconds) == interval
    pace.note([], [Report("celery", Role.LEADER, 0.0, overflow=1)])
    pause = pace.pause(seconds)
    assert min(SHORTEST, interval) <= pause <= interval
    assert seconds <= SHARE * pause * 1.001 or pause == interval


def test_an_empty_queue_is_asked_about_and_not_ticked() -> None:
    rounds = Rounds("one", "other")
    assert rounds.play(0) == ["one", "other"]
    assert [rounds.play(1) for _ in range(5)] == [[]] * 5
    assert rounds.idle == ["one", "other"]
    assert rounds.asked == [{"one", "other"}] * 6
    rounds.found = {"other"}
    assert rounds.play(1, other=3) == ["other"]
    assert rounds.play(0.1, other=3) == ["other"]


def test_an_empty_queue_is_ticked_now_and_then_all_the_same() -> None:
    rounds = Rounds("empty", rest=3.0)
    assert [rounds.play(1) for _ in range(8)] == [["empty"], [], [], ["empty"], [], [], ["empty"], []]


def test_of_many_empty_queues_few_are_ticked_at_a_time_those_first_that_were_not_for_longest() -> None:
    names = [f"queue {number}" for number in range(3 * MOST_IDLE)]
    rounds = Rounds(*names, rest=30.0)
    first = [rounds.play(1) for _ in range(4)]
    assert [len(ticked) for ticked in first] == [MOST_IDLE] * 3 + [0]
    assert sorted(name for ticked in first for name in ticked) == sorted(names)
    assert len(rounds.idle) == len(rounds.pace.reports) == len(names)
    rounds.now += 60
    assert rounds.play(1) == first[0]
    rounds.found = {names[-1]}
    assert names[-1] in rounds.play(1)


def test_a_queue_that_is_not_led_is_ticked_to_find_out() -> None:
    rounds = Rounds("other's")
    rounds.all[0].leads = False  # type: ignore[misc]  # a stand-in
    assert [rounds.play(1, role=Role.STANDBY) for _ in range(3)] == [["other's"]] * 3
    assert rounds.asked == []


def test_a_queue_that_must_not_rest_is_ticked_in_each_interval() -> None:
    rounds = Rounds("watched", rest=0.0)
    assert [rounds.play(1) for _ in range(3)] == [["watched"]] * 3
    assert rounds.asked == []


def test_a_broker_that_does_not_answer_the_question_is_asked_by_ticks() -> None:
    rounds = Rounds("empty")
    rounds.play(0)
    rounds.problem = OSError("away")
    assert rounds.play(1) == ["empty"]


def test_a_queue_whose_tick_failed_is_ticked_again_at_once_and_has_no_report() -> None:
    rounds = Rounds("one", "other")
    rounds.play(0, failing=["one"])
    assert queues(rounds.pace.reports) == ["other"]
    assert rounds.play(0.1) == ["one"]
    assert sorted(queues(rounds.pace.reports)) == ["one", "other"]


def queues(reports: Sequence[Report]) -> list[str]:
    return [report.queue for report in reports]
