"""The best of a long overflow are found in bounded time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from celery_dynprio.engine.candidates import OLDEST, SLICE, Candidates
from celery_dynprio.engine.scores import Scores
from celery_dynprio.models import Context, PendingTask
from celery_dynprio.policies import factor

NOW = Context(1000.0)
LIMIT = 10


def task(number: int, weight: float = 1.0, published: float | None = None) -> PendingTask:
    return PendingTask(str(number), "a.task", float(number) if published is None else published, weight)


def by_id(tasks: Iterable[PendingTask]) -> dict[str, PendingTask]:
    return {each.id: each for each in tasks}


class Overflow:
    """An overflow that is looked at tick by tick; how often a task is scored is counted."""

    def __init__(self, function: Callable[[PendingTask], Any] = lambda task: task.weight / 10) -> None:
        self.asked: list[str] = []

        def value(task: PendingTask, _: Context) -> float:
            self.asked.append(task.id)
            return float(function(task))

        self._scores = Scores(1 * factor(value), print)
        self._candidates = Candidates(self._scores)

    def tick(self, tasks: Mapping[str, PendingTask], limit: int = LIMIT) -> Mapping[str, PendingTask]:
        return self._candidates.choose(tasks, self._scores.bind(NOW), limit)


def test_a_short_overflow_is_handed_on_whole() -> None:
    tasks = by_id(map(task, range(LIMIT)))
    assert Overflow().tick(tasks) is tasks


def test_the_best_are_found_in_turns_and_of_equals_the_oldest() -> None:
    tasks = by_id(task(n, weight=float(n % 5), published=float(-n)) for n in range(2 * SLICE * LIMIT))
    overflow = Overflow()
    chosen = [overflow.tick(tasks) for _ in range(3)][-1]
    heaviest = sorted((each for each in tasks.values() if each.weight == 4), key=lambda each: each.published)[:LIMIT]
    assert chosen.keys() >= {each.id for each in heaviest}


def test_a_tick_asks_for_a_slice_only_and_in_time_for_all() -> None:
    tasks = by_id(map(task, range(1000)))
    overflow = Overflow()
    overflow.tick(tasks)
    assert len(overflow.asked) == SLICE * LIMIT
    for _ in range(1000 // (SLICE * LIMIT) + 1):
        overflow.tick(tasks)
    assert set(overflow.asked) == tasks.keys()


def test_what_is_parked_last_is_looked_at_first() -> None:
    tasks = by_id(map(task, range(1000)))
    overflow = Overflow()
    overflow.tick(tasks)
    tasks["new"] = PendingTask("new", "a.task", 2000.0, 9.0)
    assert "new" in overflow.tick(tasks)


def test_the_oldest_are_always_chosen() -> None:
    tasks = by_id([*(task(n, weight=9.0) for n in range(1, 4 * LIMIT)), task(0, weight=0.0)])
    overflow = Overflow()
    for _ in range(3):
        chosen = overflow.tick(tasks)
    assert "0" in chosen
    assert len(chosen) <= LIMIT + OLDEST


def test_a_score_that_changes_is_noticed_when_its_turn_comes() -> None:
    weights = {str(n): 1.0 for n in range(100)}
    overflow = Overflow(lambda task: weights[task.id] / 10)
    tasks = by_id(map(task, range(100)))
    for _ in range(2):
        overflow.tick(tasks)
    weights["77"] = 9.0
    assert any("77" in overflow.tick(tasks) for _ in range(100 // (SLICE * LIMIT) + 2))


def test_what_left_the_overflow_is_chosen_no_more() -> None:
    tasks = by_id(map(task, range(100)))
    overflow = Overflow()
    gone = next(iter(overflow.tick(tasks)))
    del tasks[gone]
    assert gone not in overflow.tick(tasks)


def test_a_long_overflow_in_which_each_task_has_a_score_is_chosen_from() -> None:
    """As after another process had led: all that it held comes back at once."""
    overflow = Overflow()
    tasks = by_id(map(task, range(LIMIT + 1)))
    score = overflow._scores.bind(NOW)
    overflow._scores.renew(list(tasks.values()), score)
    assert len(overflow._candidates.choose(tasks, score, LIMIT)) == LIMIT


def test_an_overflow_of_which_all_that_were_chosen_left_is_chosen_from() -> None:
    overflow = Overflow()
    before, after = (by_id(map(task, range(n, n + LIMIT + 1))) for n in (0, 100))
    score = overflow._scores.bind(NOW)
    overflow._scores.renew(list(after.values()), score)
    for _ in range(2):
        overflow._candidates.choose(before, score, LIMIT)
    assert overflow._candidates.choose(after, score, LIMIT).keys() <= after.keys()
