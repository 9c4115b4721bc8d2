"""Tasks are moved only if they take part in an exchange that changes what runs next."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_dynprio.engine.exchange import Exchanges, pairs
from celery_dynprio.engine.homes import GAIN, Homes
from celery_dynprio.engine.planner import Planner
from celery_dynprio.engine.scored import Front, Scored
from celery_dynprio.levels import Bands
from celery_dynprio.models import Move, PendingTask, Place, Snapshot

LEVELS = 10
NOW = 1000.0
BANDS = Bands(0.0, 1.0, LEVELS)
HOMES = Homes(BANDS, range(LEVELS), 1.0)
MARGIN = GAIN * HOMES.margin
NEAR = 16


class Queue:
    """Tasks with fixed scores, level by level, published one after the other; a move puts a task at the back."""

    def __init__(self, *levels: Sequence[float], pinned: dict[str, Place] | None = None) -> None:
        self.score: dict[str, float] = {}
        self.levels: list[list[PendingTask]] = [[] for _ in range(LEVELS)]
        for place, scores in enumerate(levels):
            for number, score in enumerate(scores):
                name = f"{place}-{number}"
                at = NOW - 100 + len(self.score)
                self.levels[place].append(PendingTask(name, "a.task", at, pinned=(pinned or {}).get(name)))
                self.score[name] = score

    def snapshot(self) -> Snapshot:
        levels = tuple(map(tuple, self.levels))
        return Snapshot(levels, tuple(map(len, levels)), {})

    def front(self) -> Front:
        return Front.of(self.snapshot(), lambda task: self.score[task.id])

    def exchanges(self, near: int = NEAR) -> Exchanges:
        return Exchanges.among(self.front(), near, MARGIN, HOMES.exact)

    def tick(self, near: int | None = NEAR) -> Sequence[Move]:
        def score(task: PendingTask) -> float:
            return self.score[task.id]

        planner = Planner(LEVELS, 10_000, 1.0)
        plan = planner.plan(self.snapshot(), score, NOW, bands=BANDS, near=near, cost=lambda _: 0.001, budget=10.0)
        for move in plan.moves:
            self.levels[move.source].remove(move.task)
            self.levels[move.target].append(move.task)
        return plan.moves

    def order(self) -> Sequence[str]:
        return [task.id for level in self.levels for task in level]


def moved(*levels: Sequence[float], near: int | None = NEAR) -> set[str]:
    return {move.task.id for move in Queue(*levels).tick(near)}


@pytest.fixture(autouse=True)
def _steady_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bands, "fit", lambda *_: BANDS)


def test_tasks_that_keep_their_turn_stay_however_far_the_bands_have_gone() -> None:
    assert moved([0.3] * 10, [0.2] * 10, [], [0.1] * 10) == set()
    assert len(moved([0.3] * 10, [0.2] * 10, [], [0.1] * 10, near=None)) == 30


def test_a_better_task_is_lifted_from_behind_and_nobody_gives_way() -> None:
    assert moved([], [], [], [0.6] * 20, [], [], [], [], [], [0.3, 0.95]) == {"9-1"}


def test_a_worse_task_at_the_head_is_lowered_and_nobody_else_moves() -> None:
    assert moved([0.05, *(0.99 - number / 1000 for number in range(20))]) == {"0-0"}


def test_a_worse_task_at_the_last_level_is_overtaken_by_the_last_of_each_half() -> None:
    assert moved(*[[]] * 9, [0.05, *(0.95 - number / 1000 for number in range(20))]) == {
        f"9-{number}" for number in (1, 2, 4, 8, 16)
    }


def test_behind_what_runs_next_the_order_can_wait() -> None:
    first = [0.95 + number / 1000 for number in range(16)]
    assert moved(first, [], [], [0.1], [], [0.7]) == set()
    assert moved(first[1:], [], [], [0.1], [], [0.7]) == {"5-0"}


@pytest.mark.parametrize(("gain", "exchanged"), [(0.0, 1), (MARGIN / 2, 0), (2 * MARGIN, 1)])
def test_an_older_task_overtakes_an_equal_one_and_else_needs_the_margin(gain: float, exchanged: int) -> None:
    younger = Scored(PendingTask("younger", "a.task", NOW), 0, 0.5)
    older = Scored(PendingTask("older", "a.task", NOW - 1), 3, 0.5 + gain)
    assert len(list(pairs([younger], [older], MARGIN))) == exchanged


def test_a_gain_within_the_margin_is_not_worth_a_move() -> None:
    assert moved([0.5], [], [], [], [], [], [], [], [], [0.55, 0.549]) == set()
    assert moved([0.5], [], [], [], [], [], [], [], [], [0.55, 0.551]) == {"9-1", "0-0"}


def test_what_an_operator_pins_moves_at_once_though_it_runs_much_later() -> None:
    queue = Queue([0.95] * 40, [], [], [], [0.5], pinned={"4-0": 8})
    assert [(move.task.id, move.target, move.reason) for move in queue.tick()] == [("4-0", 8, "pinned")]


@pytest.mark.parametrize(("waiting", "ticks"), [(16, 1), (40, 3)])
def test_other_scores_put_all_of_what_runs_next_in_order(waiting: int, ticks: int) -> None:
    queue = Queue(*([start + number / 1000 for number in range(waiting)] for start in (0.9, *[0.5] * 8, 0.0)))
    assert queue.tick() == ()
    queue.score = {task: 1 - score for task, score in queue.score.items()}
    for _ in range(ticks):
        assert queue.order()[:16] != [f"9-{number}" for number in range(16)]
        queue.tick()
    assert queue.order()[:16] == [f"9-{number}" for number in range(16)]


scores = st.lists(st.floats(0, 1).map(lambda score: round(score, 2)), max_size=8)
fronts = st.lists(scores, min_size=LEVELS, max_size=LEVELS)


@st.composite
def queues(draw: st.DrawFn) -> Queue:
    """Queues with no two equal scores."""
    levels = draw(fronts)
    values = draw(st.permutations([number / 100 for number in range(101)]))
    found = iter(values)
    return Queue(*([next(found) for _ in level] for level in levels))


@given(fronts, st.integers(1, 100))
def test_what_is_in_order_is_not_moved(levels: list[list[float]], near: int) -> None:
    ordered = iter(sorted((score for level in levels for score in level), reverse=True))
    assert moved(*([next(ordered) for _ in level] for level in levels), near=near) == set()


@given(fronts, st.integers(1, 100))
def test_who_takes_part_is_among_the_next_or_the_best_and_nobody_gives_way_for_nothing(
    levels: list[list[float]], near: int
) -> None:
    queue = Queue(*levels)
    first, best = ({each.task.id for each in tasks(near)} for tasks in (queue.front().first, queue.front().best))
    found = queue.exchanges(near)
    assert found.lifted.keys() <= best
    assert found.lowered.keys() <= first
    assert found.lifted.keys().isdisjoint(found.lowered)
    assert len(found.lowered) <= len(found.lifted) <= near


@given(queues(), st.integers(1, 100))
def test_no_task_is_moved_twice_while_scores_stay(queue: Queue, near: int) -> None:
    seen: set[str] = set()
    while moves := queue.tick(near):
        ids = [move.task.id for move in moves]
        assert len({*ids}) == len(ids)
        assert seen.isdisjoint(ids)
        seen.update(ids)


@given(queues(), st.integers(1, 100))
def test_each_plan_makes_at_most_two_moves_for_each_exchange(queue: Queue, near: int) -> None:
    found = queue.exchanges(near)
    moves = queue.tick(near)
    assert {move.task.id for move in moves} <= {*found.lifted, *found.lowered}
    assert len(moves) <= 2 * len(found.lifted)


@given(queues(), st.integers(1, 100))
def test_at_rest_the_best_are_next_as_far_as_levels_can_tell_them_apart(queue: Queue, near: int) -> None:
    while queue.tick(near):
        pass
    front = queue.front()
    for out, into in pairs(front.first(near), front.best(near), MARGIN):
        assert HOMES.exact(into) >= into.place
        assert HOMES.exact(into) < out.place or HOMES.exact(out) <= out.place
