"""What an operator is told where one id has several messages."""

from __future__ import annotations

from collections import defaultdict

import pytest

from celery_dynprio.brokers.memory import MemoryBacklog
from celery_dynprio.models import HELD, Move, PendingTask
from celery_dynprio.operators.fates import Answer
from celery_dynprio.operators.steering import Deed, Tally, carry_out
from celery_dynprio.ports.broker import Found

TASK = PendingTask("id-1", "shop.report", 0.0)


def hold(found: Found) -> Deed:
    return "already held" if found.place == HELD else Move(found.task, found.place, HELD, 0.0, "hold")


def test_what_finds_no_room_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery_dynprio.brokers.memory.backlog.MOST_COPIES", 2)
    backlog, tallies = MemoryBacklog("celery"), defaultdict[str, Tally](Tally)
    for _ in range(3):
        backlog.publish(TASK, 5)
    carry_out(backlog, backlog.find([TASK.id], 0.0), hold, tallies, "")
    result = tallies[TASK.id].result(TASK.id)
    assert (result.answer, result.messages) == (Answer.DONE, 2)
    assert result.detail == "2 of 3 messages with this id, the rest: there are too many messages with this id"
    again = defaultdict[str, Tally](Tally)
    (found,) = (each for each in backlog.find([TASK.id], 0.0)[TASK.id] if each.place != HELD)
    carry_out(backlog, {TASK.id: [found]}, hold, again, "")
    assert again[TASK.id].result(TASK.id).answer is Answer.BUSY


def test_those_that_somebody_took_since_are_looked_for_again() -> None:
    backlog, tallies = MemoryBacklog("celery"), defaultdict[str, Tally](Tally)
    for _ in range(2):
        backlog.publish(TASK, 5)
    found = backlog.find([TASK.id], 0.0)
    assert backlog.consume() == TASK
    assert carry_out(backlog, found, hold, tallies, "") == {TASK.id}
    assert tallies[TASK.id].moved == 1
