"""What comes next under two policies: who starts when, from what waits, what runs, and how long tasks ran before."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_dynprio.cli.outlook import outlook_lines, outlook_with_paths
from celery_dynprio.cli.policy import Tried, tried_lines, tried_object
from celery_dynprio.engine.draws import FEWEST, Draws, quantile, range_of, rest
from celery_dynprio.engine.ordering import Turn, shifts
from celery_dynprio.engine.scene import Scene, Taken
from celery_dynprio.errors import ArgumentError, DynPrioError
from celery_dynprio.lab.contenders import Production
from celery_dynprio.lab.outlook import OutlookStoppedError, Play, chosen, outlook
from celery_dynprio.models import OVERFLOW, Context, PendingTask
from celery_dynprio.operators.results import Comparison
from celery_dynprio.policies import Age, FairShare, Policy, ShortestFirst, Weight
from celery_dynprio.runtimes import Estimate, Runtimes, Sums

NOW: Final = 1_000.0
HEAVY: Final = 1 * Weight()
SHORT: Final = 1 * ShortestFirst(scale=5)
PLAY: Final = Play(Production())


def steady(**means: float) -> Runtimes:
    """Run times that hardly vary."""
    runs = 1e9
    return Runtimes(means, {name: Sums(runs, runs * mean, runs * mean**2) for name, mean in means.items()})


def scene(
    turns: Sequence[Turn], runtimes: Runtimes, taken: Sequence[Taken] = (), *, slots: int = 1, ahead: int = 0
) -> Scene:
    return Scene("celery", Context(NOW, runtimes), turns, {"w": slots}, {"w": ahead}, {"w": taken})


def waiting(name: str, place: int, weight: float = 1.0, age: float = 5.0, key: str | None = None) -> Turn:
    task = PendingTask(f"{name} of {key}", name, NOW - age, weight, key=key)
    return Turn("celery", task, place, 1, 0.5, age)


def medians(found: Scene, own: Policy, tried: Policy, play: Play = PLAY) -> dict[str, tuple[float, float]]:
    paths = outlook(found, own, tried, play).paths
    return {
        each.turn.task.name: (round(each.starts.own.median, 2), round(each.starts.tried.median, 2)) for each in paths
    }


class TestDraws:
    @given(st.floats(0.01, 100), st.floats(0, 3), st.floats(0.001, 0.999), st.floats(0, 50))
    def test_what_is_left_of_a_run_is_what_longer_runs_have_left(
        self, mean: float, variation: float, chance: float, elapsed: float
    ) -> None:
        estimate = Estimate(mean, mean * variation)
        left = rest(estimate, elapsed, chance)
        assert left >= 0
        assert rest(estimate, 0.0, chance) == pytest.approx(quantile(estimate, chance), rel=0.01)
        assert rest(estimate, elapsed, 0.999) >= left

    def test_the_rest_agrees_with_rejection(self) -> None:
        estimate, chances = Estimate(2.0, 2.0), [(each + 0.5) / 20_000 for each in range(20_000)]
        runs = [quantile(estimate, chance) for chance in chances]
        longer = sorted(run - 3.0 for run in runs if run > 3.0)
        for share in (0.1, 0.5, 0.9):
            assert rest(estimate, 3.0, share) == pytest.approx(longer[int(share * len(longer))], rel=0.02)

    def test_two_who_ask_with_one_seed_see_one_future(self) -> None:
        runtimes, task = Runtimes({"a": 2.0}), PendingTask("1", "a", NOW)
        assert Draws(runtimes, 1).run(task) == Draws(runtimes, 1).run(task) != Draws(runtimes, 2).run(task)
        assert Draws(Runtimes(), 1).run(task) == 0.0

    def test_a_range_of_few_draws_holds_what_it_promises(self) -> None:
        drawn, held = random.Random(1), 0
        for _ in range(4_000):
            found = range_of([drawn.gauss(0, 1) for _ in range(FEWEST)])
            held += found.low <= drawn.gauss(0, 1) <= found.high
        assert held / 4_000 == pytest.approx(0.8, abs=0.02)


class TestWhoStartsWhen:
    RUNTIMES = steady(long=10.0, short=1.0, running=4.0, reserved=2.0)
    TURNS = (waiting("long", 1, weight=9), waiting("short", 8, weight=1))

    def test_under_the_policy_in_force_and_under_the_other(self) -> None:
        assert medians(scene(self.TURNS, self.RUNTIMES), HEAVY, SHORT) == {"long": (0.0, 1.0), "short": (10.0, 0.0)}

    def test_what_workers_have_goes_first_and_only_the_rest_of_it(self) -> None:
        taken = [Taken(PendingTask("r", "running", 0), NOW - 3.0), Taken(PendingTask("s", "reserved", 0), None)]
        found = scene(self.TURNS, self.RUNTIMES, taken, ahead=1)
        # Reserved by the worker as soon as it has room: the first one before the next start makes another possible.
        assert medians(found, HEAVY, SHORT) == {"long": (3.0, 4.0), "short": (13.0, 3.0)}

    def test_what_is_taken_ahead_is_out_of_the_policys_reach(self) -> None:
        turns = (waiting("long", 0, weight=9), waiting("short", 9, weight=1), waiting("long", 9, weight=5, key="x"))
        found = scene(turns, self.RUNTIMES, ahead=3)
        assert {
            each.turn.task.id: round(each.starts.own.median) for each in outlook(found, HEAVY, HEAVY, PLAY).paths
        } == {"long of None": 0, "long of x": 10, "short of None": 20}

    def test_parked_tasks_come_back(self) -> None:
        turns = (*self.TURNS, waiting("reserved", OVERFLOW, weight=10))
        assert medians(scene(turns, self.RUNTIMES), HEAVY, HEAVY)["reserved"] == (0.0, 0.0)

    def test_use_goes_on_while_it_plays(self) -> None:
        turns = [waiting("long", 5, age=20.0 - number, key=key) for number, key in enumerate("aaab")]
        turns = [replace(each, task=replace(each.task, id=str(number))) for number, each in enumerate(turns)]
        starts = {
            each.turn.task.id: each.starts
            for each in outlook(scene(turns, self.RUNTIMES), 1 * Age(60), 1 * FairShare(), PLAY).paths
        }
        assert starts["3"].own.median == pytest.approx(30, abs=0.1)
        # What runs counts, so that the next one is not of "a" again.
        assert starts["3"].tried.median == pytest.approx(10, abs=0.1)

    def test_ranges_are_as_wide_as_run_times_vary(self) -> None:
        wide = (
            outlook(scene(self.TURNS, Runtimes({"long": 10.0, "short": 1.0})), HEAVY, HEAVY, PLAY).paths[1].starts.own
        )
        assert wide.low < 5 < wide.median < wide.high
        assert wide.high > 15

    @settings(max_examples=20, deadline=None)
    @given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9), st.integers(0, 10)), max_size=12))
    def test_everything_that_waits_starts_under_both(self, given: list[tuple[str, int, int]]) -> None:
        turns = [
            replace(each, task=replace(each.task, id=str(number)))
            for number, each in enumerate(waiting(name, level, weight) for name, level, weight in given)
        ]
        found = outlook(scene(turns, Runtimes({"a": 1.0, "b": 3.0}), slots=2), HEAVY, SHORT, PLAY)
        assert sorted(each.turn.task.id for each in found.paths) == sorted(turn.task.id for turn in turns)
        assert sum(each.tasks for each in found.names) == len(turns)
        if turns:
            assert min(each.starts.own.low for each in found.paths) == 0.0
            assert found == outlook(scene(turns, Runtimes({"a": 1.0, "b": 3.0}), slots=2), HEAVY, SHORT, PLAY)


class TestBounds:
    def test_of_many_the_first_by_either_policy_are_played(self) -> None:
        turns = [
            replace(each, task=replace(each.task, id=str(number)))
            for number, each in enumerate(waiting("long" if number < 10 else "short", 5) for number in range(20))
        ]
        many = replace(scene(turns, steady(long=10.0, short=1.0)), left_out=7)
        assert [turn.task.id for turn in chosen(many, SHORT, 4)] == ["0", "1", "10", "11"]
        found = outlook(many, HEAVY, SHORT, replace(PLAY, tasks=4))
        assert (len(found.paths), found.left_out) == (4, 23)

    def test_a_long_backlog_has_longer_ticks(self) -> None:
        turns = [waiting("long", 5, key=str(number)) for number in range(100)]
        assert outlook(scene(turns, steady(long=10.0)), HEAVY, SHORT, PLAY).tick == pytest.approx(10.0)
        assert outlook(scene(turns[:2], steady(long=10.0)), HEAVY, SHORT, PLAY).tick == 1.0

    def test_two_messages_with_one_id_are_one_task(self) -> None:
        turn = waiting("long", 5)
        assert len(outlook(scene([turn, turn], steady(long=1.0)), HEAVY, SHORT, PLAY).paths) == 1

    def test_what_cannot_be_played_says_why(self) -> None:
        turns = [waiting("long", 5)]
        with pytest.raises(DynPrioError, match="no worker that takes from it answers"):
            outlook(scene(turns, steady(long=1.0), slots=0), HEAVY, SHORT, PLAY)
        with pytest.raises(DynPrioError, match="no runtime has been learned"):
            outlook(scene(turns, Runtimes()), HEAVY, SHORT, PLAY)
        with pytest.raises(ArgumentError, match="use 19 or more"):
            replace(PLAY, futures=5)

    def test_it_stops_when_nobody_waits_for_it(self) -> None:
        asked = iter([False, False, True])
        with pytest.raises(OutlookStoppedError):
            outlook(
                scene([waiting("long", 5)], steady(long=1.0)), HEAVY, SHORT, replace(PLAY, stopped=lambda: next(asked))
            )


class TestShown:
    TURNS = (waiting("long", 1, weight=9, key="\x1b[2J"), waiting("short", 8, weight=1, age=6, key="ada"))

    def tried(self, other: Policy = SHORT, **means: float) -> Tried:
        found = scene(self.TURNS, steady(**means))
        tasks = [turn.task for turn in found.turns]
        moved = shifts(tasks, HEAVY.bind(found.context), other.bind(found.context))
        return Tried.of(Comparison("celery", moved, found), HEAVY, other, PLAY)

    def test_lines(self) -> None:
        lines = list(tried_lines(self.tried(long=10.0, short=1.0), 5, None))
        assert lines[0] == "celery: of 2 tasks, 1 would move up, 1 down, 0 would stay"
        assert lines[1].startswith("Played 2 tasks on 1 slot, in 19 possible futures")
        rows = [line.split() for line in lines]
        assert [*["10.0", "10.0", "to", "10.0", "0.0", "0.0", "to", "0.0", "1", "short"]] in rows
        assert any(row[-3:] == [r"\x1b[2J", "long", "long"] or row[-4:-1] == ["long", "long", "of"] for row in rows)
        assert not any("\x1b" in line for line in lines)
        assert any(line.startswith("1 task would start sooner") for line in lines)

    def test_for_programs(self) -> None:
        found = tried_object(self.tried(long=10.0, short=1.0), None)
        assert found["problem"] is None
        played = found["outlook"]
        assert (played["played"], played["left_out"], played["slots"]) == (2, 0, 1)
        (sooner,), (later,) = played["sooner"], played["later"]
        assert (sooner["key"], round(sooner["now"]["median"]), sooner["then"]["high"]) == ("ada", 10, 0.0)
        assert round(later["then"]["low"]) == 1
        assert [each["task"] for each in played["tasks"]] == ["short", "long"]

    def test_what_cannot_be_played_is_compared_by_position(self) -> None:
        unplayed = self.tried(1 * Age(60))
        lines = list(tried_lines(unplayed, 5, None))
        assert "would rise most:" in lines
        assert lines[-1].startswith("Not played forward: queue 'celery': no runtime has been learned yet")
        found = tried_object(unplayed, None)
        assert (found["outlook"], found["up"]) == (None, 1)

    def test_an_empty_queue(self) -> None:
        found = outlook(scene([], Runtimes(), slots=0), HEAVY, SHORT, PLAY)
        assert list(outlook_lines(found, 5, None)) == ["Nothing was played: no task waits for its turn."]
        assert outlook_with_paths(found, 5)["last"] is None
