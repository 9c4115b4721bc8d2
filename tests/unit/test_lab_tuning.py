"""Tuning: a gain that is there is found and recommended, and one that is chance is not."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial

import pytest

from celery_dynprio import Age, FairShare, Policy, Weight
from celery_dynprio.errors import ArgumentError
from celery_dynprio.lab.comparison import OVERALL, Interval, joint_interval
from celery_dynprio.lab.contenders import Production
from celery_dynprio.lab.lookup import measure_named
from celery_dynprio.lab.measures import mean
from celery_dynprio.lab.recording import Task
from celery_dynprio.lab.replay import Fleet
from celery_dynprio.lab.search import Trial
from celery_dynprio.lab.tuning import Candidate, Split, Stage, judge, letter, objectives, values
from celery_dynprio.lab.workload import Workload

STAGE = Stage(Fleet(2), Production(), 5.0)
WAIT = measure_named("objective", "weighted mean wait", OVERALL)
LONGEST = measure_named("objective", "longest wait", OVERALL)


def tasks(count: int, seed: int = 1) -> list[Task]:
    drawn, at, made = random.Random(seed), 0.0, []
    for _ in range(count):
        at += drawn.expovariate(1.4)
        weight = drawn.choice([0.0, 1.0, 10.0])
        made.append(Task(at, f"weight {weight:g}", drawn.expovariate(0.5), drawn.choice("abc"), weight))
    return made


def split(count: int = 500, share: float = 0.4) -> Split:
    return Split.of(Workload(partial(iter, tasks(count))), share, "name")


def judged(own: Policy, *others: Policy, seeds: int = 20, count: int = 500) -> Sequence[Candidate]:
    trials = [Trial(each, (0.0, 0.0)) for each in others]
    return judge(split(count), STAGE, ("app", own), trials, [WAIT, LONGEST], seeds=seeds).candidates


def test_a_recording_is_cut_by_time() -> None:
    found = split(1000, 0.25)
    assert [*found.first, *found.rest] == tasks(1000)
    cut = tasks(1000)[0].at + 0.25 * (tasks(1000)[-1].at - tasks(1000)[0].at)
    assert found.first[-1].at < cut <= found.rest[0].at


@pytest.mark.parametrize(("count", "share"), [(150, 0.5), (900, 0.05), (900, 0.95)])
def test_a_part_with_too_few_tasks_is_refused(count: int, share: float) -> None:
    with pytest.raises(ArgumentError, match="use 100 or more in each, from a longer recording"):
        split(count, share)


def test_a_gain_beyond_the_noise_is_told_from_a_trade_and_from_nothing() -> None:
    by_age, by_weight = 1 * Age(saturation=600), 1 * Weight() + 0.01 * Age(saturation=600)
    trade, same = judged(by_age, by_weight, 7 * Age(saturation=600), count=1000)
    assert (trade.name, trade.is_trade, trade.is_gain) == ("A", True, False)
    assert [each.measure for each in trade.better] == [WAIT]
    assert [each.measure for each in trade.worse] == [LONGEST]
    assert "mean wait of weight 0" in {each.measure.title for each in trade.costs}
    assert (same.better, same.worse, same.costs) == ([], [], [])
    assert [each.measure for each in same.unclear] == [WAIT, LONGEST]
    (alone,) = judge(split(), STAGE, ("app", by_age), [Trial(by_weight, (0.0,))], [WAIT], seeds=20).candidates
    assert alone.is_gain
    assert LONGEST in {each.measure for each in alone.costs}


def test_gains_of_chance_are_not_recommended() -> None:
    """Keys and weights that say nothing: whatever a policy makes of them is luck, and the search picks the luckiest."""
    drawn = random.Random(3)
    shuffled = [each._replace(weight=1.0, key=drawn.choice("abcdefgh"), name="task") for each in tasks(600)]
    cut = Split.of(Workload(partial(iter, shuffled)), 0.5, "name")
    others = [drawn.uniform(0.1, 10) * FairShare() + 1 * Age(saturation=drawn.uniform(10, 300)) for _ in range(8)]
    own = 1 * FairShare() + 1 * Age(saturation=60)
    played = [Trial(each, values([WAIT], STAGE.play(cut.first, cut.group, each))) for each in others]
    luckiest = sorted(played, key=lambda each: each.values)[:3]
    found = judge(cut, STAGE, ("app", own), luckiest, [WAIT], seeds=20).candidates
    assert [each.name for each in found if each.is_gain] == []


def test_the_same_arguments_judge_the_same() -> None:
    one, two = (judged(1 * Age(), 1 * Weight() + 1 * Age())[0] for _ in range(2))
    assert [each.difference for each in one.costs] == [each.difference for each in two.costs]
    assert (one.better, one.worse, one.unclear) == (two.better, two.worse, two.unclear)


def test_intervals_that_hold_together_are_wider() -> None:
    drawn = random.Random(5)
    pairs = [(other + drawn.gauss(1.0, 2.0), other) for other in (drawn.uniform(20, 30) for _ in range(400))]
    one, many = (joint_interval(pairs, count, share=True) for count in (1, 12))
    assert one.mean == many.mean == mean([own - other for own, other in pairs])
    assert width(one) == pytest.approx(2 * 2.0 * 1.96, rel=0.1)
    assert width(many) == pytest.approx(2 * 2.0 * 2.87, rel=0.1)  # 1 - 0.025 / 12 of the normal distribution


def test_a_gain_of_a_fifth_at_every_load_is_no_noise() -> None:
    drawn = random.Random(6)
    pairs = [(other * drawn.uniform(0.75, 0.85), other) for other in (drawn.expovariate(0.1) for _ in range(20))]
    found = joint_interval(pairs, 10)
    other = mean([other for _, other in pairs])
    assert found.high is not None
    assert -0.25 * other < found.mean < found.high < -0.1 * other
    absolute = joint_interval(pairs, 10, share=True).high
    assert absolute is not None
    assert absolute > 0


def test_a_figure_that_may_be_0_is_not_divided_by() -> None:
    found = joint_interval([(1.0, 0.0), (0.0, 0.0), (2.0, 4.0)], 2)
    assert found.mean == pytest.approx(-1 / 3)
    assert found.low is not None
    assert found.low < -1


def width(found: Interval) -> float:
    assert found.low is not None
    assert found.high is not None
    return found.high - found.low


def test_objectives_are_those_that_are_named_or_the_usual_ones() -> None:
    found = STAGE.play(tasks(200), lambda task: task.name, 1 * Age())
    assert [each.title for each in objectives([], found)] == ["weighted mean wait"]
    due = [each._replace(deadline=5.0) for each in tasks(200)]
    with_deadlines = STAGE.play(due, lambda task: task.name, 1 * Age())
    assert [each.title for each in objectives([], with_deadlines)] == ["weighted mean wait", "started in time"]
    named = objectives(["weight 10 p95", "longest", "p95 weight 10"], found)
    assert [each.title for each in named] == ["wait of weight 10, p95", "longest wait"]
    with pytest.raises(ArgumentError, match="--objective = 'in time': there is no such measure"):
        objectives(["in time"], found)


def test_names_of_candidates() -> None:
    assert [letter(number) for number in (0, 1, 25, 26)] == ["A", "B", "Z", "A1"]
