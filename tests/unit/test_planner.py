from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_dynprio.engine.planner import Plan, Planner
from celery_dynprio.engine.starvation import STARVING_PART, Credit, Starvation
from celery_dynprio.levels import Bands
from celery_dynprio.models import OVERFLOW, Context, Move, PendingTask, Place, Snapshot, is_level
from celery_dynprio.policies import Age, Policy, Weight

LEVELS = 10
NOW = 10_000.0
UNLIMITED = 1e9

#: The levels that workers without the add-on take from.
PLAIN = (0, 3, 6, 9)

Score = Callable[[PendingTask], float]


def by_weight(task: PendingTask) -> float:
    return task.weight / 10


class Queue:
    """The levels and the overflow of one queue, as a broker keeps them: a move puts a task at the back."""

    def __init__(self, window: int = 1000, hysteresis: float = 0.25) -> None:
        self.levels: list[list[PendingTask]] = [[] for _ in range(LEVELS)]
        self.overflow: dict[str, PendingTask] = {}
        self.planner = Planner(LEVELS, window, hysteresis)
        self.bands: Bands | None = None
        self.published = 0

    def publish(
        self, level: Place, weight: float = 1, *, published: float | None = None, pinned: Place | None = None
    ) -> PendingTask:
        self.published += 1
        at = NOW - 1000 + self.published if published is None else published
        task = PendingTask(f"{self.published:04}", "task", at, weight, pinned=pinned)
        if level == OVERFLOW:
            self.overflow[task.id] = task
        else:
            self.levels[level].append(task)
        return task

    def consume(self) -> PendingTask | None:
        return next((tasks.pop(0) for tasks in self.levels if tasks), None)

    def snapshot(self) -> Snapshot:
        levels = tuple(map(tuple, self.levels))
        return Snapshot(levels, tuple(map(len, levels)), self.overflow, len(self.overflow))

    def plan(
        self,
        score: Score = by_weight,
        *,
        now: float = NOW,
        patience: float | None = None,
        budget: float = UNLIMITED,
        cost: Callable[[Move], float] = lambda _: 1.0,
        usable: Sequence[Place] | None = None,
    ) -> Plan:
        return self.planner.plan(
            self.snapshot(),
            score,
            now,
            bands=self.bands,
            starvation=Starvation(patience),
            cost=cost,
            budget=budget,
            usable=usable,
        )

    def apply(self, plan: Plan) -> None:
        self.bands = plan.bands
        for move in plan.moves:
            if move.source == OVERFLOW:
                del self.overflow[move.task.id]
            else:
                self.levels[move.source].remove(move.task)
            if move.target == OVERFLOW:
                self.overflow[move.task.id] = move.task
            else:
                self.levels[move.target].append(move.task)

    def tick(self, score: Score = by_weight, **options: float | None) -> Plan:
        plan = self.plan(score, **options)  # type: ignore[arg-type]
        self.apply(plan)
        return plan

    def everything(self) -> list[tuple[PendingTask, Place]]:
        front = [(task, level) for level, tasks in enumerate(self.levels) for task in tasks]
        return front + [(task, OVERFLOW) for task in self.overflow.values()]

    def order(self) -> list[PendingTask]:
        """All tasks, the next to run first."""
        parked = sorted(self.overflow.values(), key=lambda task: task.published)
        return [task for tasks in self.levels for task in tasks] + parked

    def level_of(self, task: PendingTask) -> Place:
        return next(place for other, place in self.everything() if other.id == task.id)

    def overtaking(self, score: Score = by_weight) -> set[tuple[str, str]]:
        """The pairs of unpinned tasks with equal scores of which the younger is ahead."""
        free = [task for task in self.order() if task.pinned is None]
        return {
            (ahead.id, behind.id)
            for ahead, behind in combinations(free, 2)
            if score(ahead) == score(behind) and ahead.published > behind.published
        }


@st.composite
def queues(draw: st.DrawFn, *, pins: bool = True, parks: bool = True, size: int = 40) -> Queue:
    queue = Queue(window=draw(st.integers(1, size)), hysteresis=draw(st.sampled_from([0.0, 0.25, 0.9])))
    places = st.integers(OVERFLOW if parks else 0, LEVELS - 2)  # one level is free: equals need a place to meet
    together = draw(st.sampled_from([1, 1, 4]))  # so many were published at one moment
    for at in draw(st.permutations(range(draw(st.integers(0, size))))):
        pinned = draw(st.none() | st.none() | st.integers(0, LEVELS - 1)) if pins else None
        queue.publish(
            draw(places), draw(st.sampled_from([0, 1, 1.5, 5, 5.2, 10])), published=NOW - at // together, pinned=pinned
        )
    if draw(st.booleans()):
        queue.bands = Bands.fit(draw(st.lists(st.floats(0, 1))), LEVELS)
    return queue


def reach(move: Move) -> tuple[int, int]:
    """How urgent a move is: the more urgent of its ends, then its distance."""
    source, target = (place if is_level(place) else LEVELS for place in (move.source, move.target))
    return min(source, target), -abs(source - target)


class TestAnyPlan:
    @given(queues(parks=False), st.none() | st.floats(0, 50))
    def test_tasks_are_put_into_usable_levels_only(self, queue: Queue, patience: float | None) -> None:
        plan = queue.plan(patience=patience, usable=PLAIN)
        assert {move.target for move in plan.moves} <= {OVERFLOW, *PLAIN}
        queue.apply(plan)
        waiting = {level for level, tasks in enumerate(queue.levels) if tasks}
        assert waiting <= {*PLAIN}, "what was elsewhere is brought there"

    @given(queues(), st.none() | st.floats(0, 50), st.floats(0, 30))
    def test_moves_are_possible_and_each_task_is_in_one(
        self, queue: Queue, patience: float | None, budget: float
    ) -> None:
        plan = queue.plan(patience=patience, budget=budget)
        places = {task.id: place for task, place in queue.everything()}
        assert all(move.source == places[move.task.id] != move.target for move in plan.moves)
        assert all(move.target == OVERFLOW or 0 <= move.target < LEVELS for move in plan.moves)
        assert len({move.task.id for move in plan.moves}) == len(plan.moves)

    @given(queues(), st.none() | st.floats(0, 50), st.floats(0, 30))
    def test_equal_arguments_give_equal_plans(self, queue: Queue, patience: float | None, budget: float) -> None:
        plan = queue.plan(patience=patience, budget=budget)
        queue.overflow = dict(reversed(queue.overflow.items()))
        assert queue.plan(patience=patience, budget=budget) == plan

    @given(queues(), st.lists(st.floats(0, 5), min_size=1), st.floats(0, 30))
    def test_the_budget_holds_but_for_a_first_move(self, queue: Queue, prices: list[float], budget: float) -> None:
        def cost(move: Move) -> float:
            return prices[(move.source * 7 + move.target) % len(prices)]

        wanted, plan = queue.plan(), queue.plan(cost=cost, budget=budget)
        assert len(plan.moves) == 1 or sum(cost(each) for each in plan.moves) <= budget + 1e-9
        assert len(plan.moves) + plan.deferred == len(wanted.moves)
        assert set(plan.moves) <= set(wanted.moves)
        assert bool(plan.moves) == bool(wanted.moves)

    @given(queues(), st.none() | st.floats(0, 50))
    def test_a_static_backlog_comes_to_rest(self, queue: Queue, patience: float | None) -> None:
        queue.planner = Planner(LEVELS, queue.planner.window, 0.25)
        before = Counter(task.id for task, _ in queue.everything())
        rest = next((at for at in range(100) if not queue.tick(patience=patience).moves), None)
        assert rest is not None
        assert rest <= (5 if queue.bands is None else 60)
        assert Counter(task.id for task, _ in queue.everything()) == before

    @given(queues(), st.floats(1, 20))
    def test_a_limited_budget_comes_to_rest_too(self, queue: Queue, budget: float) -> None:
        queue.planner = Planner(LEVELS, queue.planner.window, 0.25)
        assert any(not queue.tick(budget=budget).moves for _ in range(200))

    def test_an_empty_queue_needs_nothing(self) -> None:
        assert Queue().plan(patience=10) == Plan((), Bands.equal(LEVELS), 0, ())


class TestLevels:
    def test_scores_decide(self) -> None:
        queue = Queue()
        tasks = [queue.publish(5, weight) for weight in (0, 2, 4, 6, 8, 10)]
        queue.tick()
        assert [queue.level_of(task) for task in tasks] == [9, 7, 5, 3, 1, 0]
        assert [task.weight for task in queue.order()] == sorted((task.weight for task in tasks), reverse=True)

    def test_a_task_near_the_edge_stays(self) -> None:
        queue = Queue()
        queue.bands = Bands.equal(LEVELS)
        queue.publish(5, 0)
        queue.publish(5, 10)
        near, beyond = queue.publish(5, 5.1), queue.publish(5, 5.4)
        queue.tick()
        assert (queue.level_of(near), queue.level_of(beyond)) == (5, 4)

    @given(queues())
    def test_higher_scores_are_not_behind_but_for_the_hysteresis(self, queue: Queue) -> None:
        queue.planner = Planner(LEVELS, 1000, 0.0)
        plan = queue.tick()
        while queue.tick().moves:
            pass
        free = [(task, place) for task, place in queue.everything() if task.pinned is None]
        assert queue.bands is not None
        assert all(place == queue.bands.level(by_weight(task)) for task, place in free), plan

    @given(queues())
    def test_pinned_tasks_go_to_their_level_and_are_never_scored(self, queue: Queue) -> None:
        def score(task: PendingTask) -> float:
            assert task.pinned is None
            return by_weight(task)

        queue.planner = Planner(LEVELS, 1000, 0.25)
        queue.tick(score)
        assert all(place == task.pinned for task, place in queue.everything() if task.pinned is not None)

    @pytest.mark.parametrize("pinned", [0, 9])
    def test_a_pinned_task_stays_however_long_it_waits(self, pinned: Place) -> None:
        queue = Queue()
        queue.publish(pinned, published=0, pinned=pinned)
        assert queue.plan(patience=5).moves == ()


class TestEquals:
    @given(queues(pins=False, parks=False), st.floats(0, 50))
    def test_no_plan_lets_a_younger_one_overtake(self, queue: Queue, patience: float) -> None:
        before = queue.overtaking()
        queue.tick(patience=patience)
        assert queue.overtaking() <= before

    @given(queues(pins=False), st.floats(41, 100))
    def test_nor_does_one_that_parks_and_has_a_budget(self, queue: Queue, budget: float) -> None:
        before = queue.overtaking()
        queue.tick(budget=budget)
        assert queue.overtaking() <= before

    @given(st.lists(st.tuples(st.sampled_from([0.0, 1, 2, 5, 5.2, 9]), st.integers(0, 3)), max_size=80), st.data())
    def test_they_run_in_their_order_through_many_ticks(
        self, arrivals: Sequence[tuple[float, int]], data: st.DataObject
    ) -> None:
        queue, ran = Queue(), list[PendingTask]()
        for weight, consumed in arrivals:
            queue.publish(Bands.equal(LEVELS).level(weight / 10), weight)
            if data.draw(st.booleans()):
                queue.tick()
                assert queue.overtaking() == set()
                ran += [task for _ in range(consumed) if (task := queue.consume())]
        queue.tick()
        ran += queue.order()
        assert len(ran) == len(arrivals)
        for weight in {task.weight for task in ran}:
            same = [task.published for task in ran if task.weight == weight]
            assert same == sorted(same)

    def test_an_older_one_is_not_put_behind_a_younger_one(self) -> None:
        queue = Queue()
        old, young = queue.publish(9, 5), queue.publish(4, 5)  # the younger went straight to the better level
        queue.publish(9, 0)
        queue.publish(0, 10)
        queue.tick()
        assert queue.level_of(old) == queue.level_of(young)
        assert queue.order().index(old) < queue.order().index(young)

    def test_the_older_ones_stay_rather_than_move_past_a_younger(self) -> None:
        queue = Queue()
        queue.bands = Bands.equal(LEVELS)
        queue.publish(9, 0)
        queue.publish(0, 10)
        old, young = queue.publish(5, 5.4), queue.publish(4, 5.4)
        queue.tick()
        assert queue.levels[5] == [old, young]

    def test_a_demotion_that_does_not_fit_any_more_waits(self) -> None:
        queue = Queue()
        queue.bands = Bands.equal(LEVELS)
        urgent = queue.publish(9, 10)
        equals = [queue.publish(1, 0) for _ in range(3)]
        first = queue.tick(budget=3)
        assert [move.task for move in first.moves] == [urgent]
        assert first.deferred == 3
        assert [move.task for move in queue.tick(budget=3).moves] == equals

    def test_a_demotion_too_large_for_any_tick_goes_oldest_first(self) -> None:
        queue = Queue()
        queue.bands = Bands.equal(LEVELS)
        queue.publish(0, 10)
        equals = [queue.publish(1, 0) for _ in range(5)]
        moved = [[move.task for move in queue.tick(budget=2).moves] for _ in range(4)]
        assert moved == [equals[:2], equals[2:4], equals[4:], []]
        assert queue.levels[9] == equals


class TestBudget:
    @given(st.lists(st.integers(0, LEVELS - 1), max_size=30), st.integers(1, 30))
    def test_the_most_urgent_moves_come_first(self, places: list[Place], budget: int) -> None:
        queue = Queue(hysteresis=0)
        for at, place in enumerate(places):
            queue.publish(place, at / 3)
        wanted, plan = queue.plan(), queue.plan(budget=budget)
        assert sorted(map(reach, plan.moves)) == sorted(map(reach, wanted.moves))[:budget]

    def test_promotions_and_demotions_of_level_0_come_before_others(self) -> None:
        queue = Queue()
        queue.bands = Bands.equal(LEVELS)
        up, down, low = queue.publish(9, 10), queue.publish(0, 0), queue.publish(9, 5)
        assert [move.task for move in queue.plan(budget=2).moves] == [up, down]
        assert {move.task for move in queue.plan(budget=3).moves} == {up, down, low}

    def test_within_a_target_the_oldest_is_moved_first(self) -> None:
        queue = Queue()
        young = queue.publish(8, 10, published=NOW - 1)
        old = queue.publish(5, 9.9, published=NOW - 2)
        queue.publish(9, 0)
        assert [move.task for move in queue.plan().moves if move.target == 0] == [old, young]


class TestWindow:
    @given(queues(pins=False), st.none() | st.floats(0, 50))
    def test_the_front_is_filled_to_the_window_with_the_best(self, queue: Queue, patience: float | None) -> None:
        room = max(queue.planner.window - sum(map(len, queue.levels)), 0)
        plan = queue.plan(patience=patience)
        refilled = [move for move in plan.moves if move.reason == "refill"]
        parked = [move for move in plan.moves if move.target == OVERFLOW]
        lifted = sum(move.reason == "starving" and move.source == OVERFLOW for move in plan.moves)
        if room:
            assert not parked
            assert len(refilled) == min(room, len(queue.overflow) - lifted)
            left = queue.overflow.keys() - {move.task.id for move in plan.moves}
            worst = min((move.score for move in refilled), default=1)
            assert all(by_weight(queue.overflow[task_id]) <= worst for task_id in left)
        else:
            assert len(refilled) == len(parked)

    def test_refill_is_oldest_first_among_equals(self) -> None:
        queue = Queue(window=2)
        late, early, later = (queue.publish(OVERFLOW, published=at) for at in (5.0, 4.0, 6.0))
        queue.tick()
        assert queue.order() == [early, late, later]

    def test_a_better_parked_task_swaps_with_the_worst_in_a_full_front(self) -> None:
        queue = Queue(window=3)
        good, worst, bad = queue.publish(0, 9), queue.publish(9, 0), queue.publish(8, 1)
        better, same = queue.publish(OVERFLOW, 5), queue.publish(OVERFLOW, 0)
        plan = queue.tick()
        assert {(move.task, move.target == OVERFLOW) for move in plan.moves} == {(worst, True), (better, False)}
        assert {task.id for tasks in queue.levels for task in tasks} == {good.id, bad.id, better.id}
        assert same.id in queue.overflow
        assert queue.tick().moves == ()

    def test_a_hardly_better_one_does_not_swap(self) -> None:
        queue = Queue(window=2)
        queue.bands = Bands.equal(LEVELS)
        queue.publish(0, 9)
        queue.publish(9, 0.5)
        queue.publish(OVERFLOW, 0.6)
        assert queue.plan().moves == ()

    def test_an_older_equal_swaps_with_the_youngest(self) -> None:
        queue = Queue(window=2)
        old = queue.publish(OVERFLOW)
        middle, young = queue.publish(8), queue.publish(8)
        queue.tick()
        assert set(queue.levels[8]) == {old, middle}
        assert list(queue.overflow.values()) == [young]

    def test_swaps_end_with_the_first_that_gains_nothing(self) -> None:
        queue = Queue(window=3)
        queue.bands = Bands(0.01, 1.0, LEVELS)
        for level, at in ((0, 8.0), (0, 7.0), (1, 9.0)):
            queue.publish(level, 5, published=at)
        oldest, better = queue.publish(OVERFLOW, 5, published=6), queue.publish(OVERFLOW, 5.2, published=10)
        queue.tick()
        assert set(queue.overflow) == {oldest.id, better.id}

    def test_an_id_that_is_also_in_the_front_stays_parked(self) -> None:
        queue = Queue()
        task = queue.publish(8)
        queue.overflow[task.id] = task
        assert queue.plan(patience=1).moves == (Move(task, 8, 0, 0.1, "starving"),)

    def test_nor_is_it_parked_twice(self) -> None:
        queue = Queue(window=1)
        task = queue.publish(9, 0)
        queue.overflow[task.id] = task
        queue.publish(OVERFLOW, 9)
        assert queue.plan().moves == ()

    def test_pinned_tasks_come_back_in_the_turn_of_their_level(self) -> None:
        queue = Queue(window=12)
        for weight in range(11):
            queue.publish(9 - min(weight, 9), weight)
        urgent = queue.publish(OVERFLOW, pinned=0)
        queue.publish(OVERFLOW, pinned=9)
        queue.publish(OVERFLOW, 5)
        assert [(move.task, move.target) for move in queue.plan().moves] == [(urgent, 0)]


class TestStarving:
    def test_the_oldest_goes_to_level_0_one_a_tick_and_stays(self) -> None:
        queue = Queue()
        old = [queue.publish(9, 0, published=at) for at in (2.0, 1.0, 3.0)]
        for _ in range(8):
            queue.publish(0, 10, published=NOW)
        lifted = []
        for _ in range(4):
            lifted.append([move.task for move in queue.tick(patience=60).moves])
            for _ in range(9):  # all that is at level 0 runs
                queue.consume()
            for _ in range(8):
                queue.publish(0, 10, published=NOW)
        assert lifted == [[old[1]], [old[0]], [old[2]], []]

    def test_a_parked_one_is_lifted_as_well_though_the_front_is_full(self) -> None:
        queue = Queue(window=1)
        queue.publish(0, 10, published=NOW)
        old = queue.publish(OVERFLOW, 0, published=1)
        assert queue.plan(patience=60).moves == (Move(old, OVERFLOW, 0, 0.0, "starving"),)
        queue.tick(patience=60)
        assert queue.plan(patience=60).moves == ()

    def test_nobody_starves_within_the_patience(self) -> None:
        queue = Queue()
        queue.publish(9, 0, published=NOW - 50)
        queue.publish(0, 10, published=NOW)
        assert queue.plan(patience=60).moves == ()

    def test_an_old_backlog_does_not_bury_urgent_work(self) -> None:
        queue = Queue()
        for at in range(300):
            queue.publish(9, 0, published=at)
        urgent = [queue.publish(0, 10, published=NOW) for _ in range(8)]
        for _ in range(50):
            queue.tick(patience=60)
        assert queue.levels[0][:8] == urgent
        assert len(queue.levels[0]) - 8 <= len(queue.levels[0]) * STARVING_PART + 1

    def test_an_old_flood_at_level_0_makes_room(self) -> None:
        queue = Queue()
        for at in range(900):
            queue.publish(0, 0, published=at)
        queue.publish(1, 10, published=NOW)
        for _ in range(10):
            queue.tick(patience=60)
        assert len(queue.levels[0]) <= 101

    @pytest.mark.parametrize(("patience", "starved"), [(40.0, 0), (None, 20)])
    def test_overload_starves_nobody(self, patience: float | None, starved: int) -> None:
        policy: Policy = 9 * Weight() + 1 * Age(saturation=10)
        queue, waiting = Queue(), set[str]()
        for now in range(600):
            if now < 20:
                waiting.add(queue.publish(9, 0, published=now).id)
            for _ in range(2):
                queue.publish(0, 10, published=now)
            queue.tick(policy.bind(Context(now)), now=now, patience=patience)
            ran = queue.consume()
            waiting.discard(ran.id if ran else "")
        assert len(waiting) == starved


@settings(max_examples=20)
@given(st.integers(1, 30), st.floats(0, 1))
def test_bands_are_carried_from_plan_to_plan(size: int, low: float) -> None:
    queue = Queue()
    queue.bands = Bands(low / 2, low / 2 + 0.5, LEVELS)
    tasks = [queue.publish(5, at % 11) for at in range(size)]
    assert queue.plan().bands == Bands.fit(map(by_weight, tasks), LEVELS, queue.bands)


def test_tasks_of_one_moment_reach_their_level_in_many_small_steps() -> None:
    queue = Queue()
    tasks = [queue.publish(0, 0, published=NOW - 9 + number // 10) for number in range(60)]
    for _ in range(9):  # seven at a time, so that those of one moment are parted
        assert {move.target for move in queue.tick(budget=7.0).moves} == {9}
    assert queue.levels[9] == tasks


class TestLevelsThatNotAllWorkersTakeFrom:
    @pytest.mark.parametrize(("weight", "level"), [(10, 0), (8.5, 0), (6.5, 3), (4.5, 3), (3.5, 6), (0, 9)])
    def test_what_belongs_there_goes_to_the_plain_level_before(self, weight: float, level: int) -> None:
        queue = Queue()
        queue.bands = Bands.equal(LEVELS)
        queue.publish(0, 10)
        queue.publish(9, 0)
        task = queue.publish(8, weight)
        queue.apply(queue.plan(usable=PLAIN))
        assert queue.level_of(task) == level

    def test_a_pinned_task_waits_in_the_plain_level_before_its_own(self) -> None:
        queue = Queue()
        task = queue.publish(3, pinned=5)
        assert queue.plan(usable=PLAIN).moves == ()
        queue.apply(queue.plan())
        assert queue.level_of(task) == 5
        queue.apply(queue.plan(usable=PLAIN))
        assert queue.level_of(task) == 3

    def test_equal_scores_stay_together_and_in_order(self) -> None:
        queue = Queue()
        tasks = [queue.publish(level, 4.5) for level in (5, 3, 4, 3)]
        while (plan := queue.plan(usable=PLAIN)).moves:
            queue.apply(plan)
        (level,) = {queue.level_of(task) for task in tasks}
        assert level in PLAIN
        assert queue.overtaking() == set()


def credit_of(seconds: float) -> Credit:
    credit = Credit()
    credit.spend(credit.left(crowded=False) - seconds)
    return credit


def test_as_many_starving_tasks_are_lifted_as_there_is_room_for() -> None:
    tasks = tuple(PendingTask(f"{number}", "a.task", NOW - 1000 + number, 1.0) for number in range(10))
    levels = [(), (), (), (), (), (), (), (), (), tasks]

    def lifted(room: int, waiting: int = 0) -> list[str]:
        here = [tasks[:waiting], *levels[1:9], tasks[waiting:]]
        plan = Planner(10, 10_000, 0.25).plan(
            Snapshot(tuple(here), tuple(map(len, here)), {}),
            lambda _: 0.1,
            NOW,
            bands=Bands(0.0, 1.0, 10),
            starvation=Starvation(500.0, credit_of(room)),
            cost=lambda _: 0.001,
            budget=1.0,
        )
        return [move.task.id for move in plan.moves if move.reason == "starving"]

    assert lifted(1) == ["0"]
    assert lifted(4) == ["0", "1", "2", "3"]
    assert lifted(4, waiting=3) == ["3"]
    assert lifted(4, waiting=4) == []
