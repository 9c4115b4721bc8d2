"""Figures of replays, what is played, and who is said to be better."""

from __future__ import annotations

import math
import random
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_dynprio.errors import ArgumentError
from celery_dynprio.lab.comparison import (
    OVERALL,
    Interval,
    duel,
    gain,
    interval,
    is_better,
    is_clear,
    losses,
    of_classes,
    summary,
    wins,
)
from celery_dynprio.lab.contenders import FIRST_COME, Contender, Kind, Production, contenders
from celery_dynprio.lab.disciplines import FirstCome, ShortestJob
from celery_dynprio.lab.measures import (
    CURVE,
    PARTS,
    bounded_slowdown,
    distribution,
    jain,
    mean,
    measures,
    quantile,
    weighted_mean,
)
from celery_dynprio.lab.record import Record
from celery_dynprio.lab.recording import Entry, Extent, FailedTry, Slots, Task, extent
from celery_dynprio.lab.replay import Fleet, replay
from celery_dynprio.lab.report import as_object
from celery_dynprio.lab.study import OTHERS, classes, study
from celery_dynprio.lab.workload import Workload, resample
from celery_dynprio.policies import Age, ShortestFirst, Weight

values = st.lists(st.floats(0, 1e12), min_size=1, max_size=50)
PRODUCTION = Production()


@given(values)
def test_jains_index_is_between_one_nth_and_one(found: list[float]) -> None:
    assert 1 / len(found) - 1e-9 <= jain(found) <= 1 + 1e-9


def test_jains_index_at_its_ends() -> None:
    assert jain([3.0, 3.0, 3.0]) == pytest.approx(1.0)
    assert jain([5.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)
    assert (jain([]), jain([0.0, 0.0])) == (1.0, 1.0)


@given(values, st.floats(0, 1))
def test_a_quantile_is_the_first_value_that_enough_do_not_exceed(found: list[float], share: float) -> None:
    ordered = sorted(found)
    value = quantile(ordered, share)
    assert sum(each <= value for each in ordered) >= share * len(ordered)
    assert value == ordered[0] or sum(each < value for each in ordered) < share * len(ordered)


def test_a_distribution() -> None:
    assert distribution([float(each) for each in range(1, 101)]) == (100, 50.5, 50.0, 95.0, 99.0, 100.0)
    assert distribution([]) == (0, 0, 0, 0, 0, 0)


def test_means() -> None:
    assert (mean([]), mean([1.0, 2.0])) == (0.0, 1.5)
    assert weighted_mean([1.0, 4.0], [3.0, 1.0]) == pytest.approx(1.75)
    assert weighted_mean([1.0, 4.0], [0.0, 0.0]) == pytest.approx(2.5)


def test_slowdown_is_bounded_for_short_tasks() -> None:
    assert bounded_slowdown(30.0, 20.0) == pytest.approx(2.5)
    assert bounded_slowdown(30.0, 1.0) == pytest.approx(3.1)
    assert bounded_slowdown(0.0, 1.0) == 1.0


def record() -> Record:
    recording = [
        Task(0.0, "a", 10.0, "x", 1.0, 5.0),
        Task(0.0, "a", 10.0, "y", 3.0, 5.0),
        Task(0.0, "b", 20.0, "y", 0.0),
    ]
    return replay(recording, FirstCome(), Fleet(1))


def test_the_figures_of_a_replay() -> None:
    found = measures(record())
    assert found.wait == (3, 10.0, 10.0, 20.0, 20.0, 20.0)
    assert found.weighted_wait == pytest.approx(7.5)
    assert found.slowdown == pytest.approx((1 + 2 + 2) / 3)
    assert found.fairness == pytest.approx(9 / (2 * (1 + 4)))
    assert found.in_time == pytest.approx(0.5)
    assert found.tardiness == pytest.approx(5 * 3 / 4)
    assert (found.utilization, found.idle) == (1.0, 0.0)
    assert found.pending == pytest.approx((2 * 10 + 1 * 10) / 40)
    assert {name: each.mean for name, each in found.groups.items()} == {"a": 5.0, "b": 20.0}
    assert found.groups_in_time == {"a": 0.5}
    assert found.keys["y"].work == pytest.approx(30.0)
    assert len(found.curves[""]) == len(CURVE)
    assert len(found.timeline) == PARTS


def test_the_figures_of_nothing() -> None:
    found = measures(replay([], FirstCome(), Fleet(1)))
    assert (found.wait.tasks, found.in_time, found.fairness, found.moves_per_task) == (0, None, 1.0, 0.0)


def recording(count: int = 60) -> list[Task]:
    drawn = random.Random(3)
    at = 0.0
    found = []
    for _ in range(count):
        at += drawn.expovariate(1.0)
        found.append(
            Task(at, drawn.choice("ab"), drawn.expovariate(0.55), drawn.choice("xy"), drawn.choice([1.0, 9.0]))
        )
    return found


def test_a_workload_is_scaled_to_its_load_and_mean_run() -> None:
    workload = Workload(partial(iter, recording()), slots=4, load=0.8, mean_run=3.0)
    found = workload.extent()
    assert found.load(4) == pytest.approx(0.8)
    assert found.work / found.tasks == pytest.approx(3.0)
    assert found.first == recording()[0].at
    played = [entry for entry in workload.recorded() if isinstance(entry, Task)]
    assert [task.name for task in played] == [task.name for task in recording()]


def test_earlier_tries_are_scaled_too_and_workers_move_with_the_tasks() -> None:
    entries: list[Entry] = [
        Slots(0.0, "w", 1),
        Task(0.0, "a", 1.0, failed=(FailedTry(1.0, 7.0),)),
        Task(10.0, "a", 2.0),
    ]
    played = list(Workload(partial(iter, entries), slots=1, load=1.0, mean_run=4.0).recorded())
    assert played == [Slots(0.0, "w", 1), Task(0.0, "a", 2.0, failed=(FailedTry(2.0, 7.0),)), Task(8.0, "a", 4.0)]


def test_as_recorded_nothing_is_changed_and_a_limit_cuts() -> None:
    assert list(Workload(partial(iter, recording())).recorded()) == recording()
    assert len(list(Workload(partial(iter, recording()), limit=7).recorded())) == 7


@pytest.mark.parametrize("tasks", [[], [Task(0.0, "a", 0.0)]])
def test_what_cannot_be_scaled_is_refused(tasks: list[Task]) -> None:
    with pytest.raises(ArgumentError, match=r"there is no task|cannot be scaled"):
        list(Workload(partial(iter, tasks), slots=1, load=1.0).recorded())


@given(st.integers(0, 1000), st.integers(1, 60))
def test_resampling_draws_as_many_in_order_and_the_same_for_the_same_seed(seed: int, count: int) -> None:
    found = resample(recording(count), seed)
    assert len(found) == count
    assert [task.at for task in found] == sorted(task.at for task in found)
    assert {task._replace(at=0.0) for task in found} <= {task._replace(at=0.0) for task in recording(count)}
    assert found == resample(recording(count), seed)


def test_an_interval_is_as_wide_as_its_values_differ_however_many_there_are() -> None:
    found = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (found.low, found.high) == pytest.approx((3 - 2.776 * math.sqrt(2.5), 3 + 2.776 * math.sqrt(2.5)))
    assert interval([2.0]) == Interval(2.0, None, None)
    assert interval([float(each) for each in range(41)]) == pytest.approx((20.0, 1.0, 39.0))
    assert interval([float(each) for each in range(20)] * 100) == pytest.approx((9.5, 0.0, 19.0))


@pytest.mark.parametrize("seeds", [5, 20, 60])
def test_intervals_of_resampled_figures_hold_the_true_one_about_as_often_as_they_say(seeds: int) -> None:
    drawn, held = random.Random(5), 0
    for _ in range(200):
        sample = [drawn.gauss(3, 2) for _ in range(50)]
        low, high = interval([mean(drawn.choices(sample, k=50)) for _ in range(seeds)])[1:]
        assert low is not None
        assert high is not None
        held += low <= 3 <= high
    assert 0.85 <= held / 200 <= 0.99


def test_policies_are_compared_on_the_same_workloads() -> None:
    policies = {"short": 1 * ShortestFirst(scale=1), "heavy": 3 * Weight() + 1 * Age(saturation=60)}
    workload = Workload(partial(iter, recording(300)), slots=2, load=0.95)
    found = study(workload, contenders(policies, PRODUCTION), Fleet(2), seeds=20)
    by_title = {measure.title: measure for measure in OVERALL}
    weighted = by_title["weighted mean wait"]
    better = duel(found, "heavy", FIRST_COME, weighted)
    assert better is not None
    assert is_better(better)
    assert is_clear(better)
    same = duel(found, "heavy", "heavy", weighted)
    assert same is not None
    assert not is_clear(same)
    assert duel(found, "heavy", "short", by_title["started in time"]) is None  # no task has a deadline
    assert summary(found, "heavy", by_title["started in time"]) is None
    assert all(not is_better(each) and is_clear(each) for each in losses(found, "heavy"))
    assert {"mean wait of a", "wait of b, p95"} <= {each.title for each in of_classes(found)}
    reached = gain(found, "heavy")
    assert reached is not None
    assert 0.8 < reached.mean < 1.2
    won = {each.measure.title for each, _ in wins(found, "heavy")}
    lost = {each.measure.title for each in losses(found, "heavy")}
    assert not won & lost


def test_a_study_is_the_same_from_run_to_run() -> None:
    def played() -> object:
        workload = Workload(partial(iter, recording()), slots=2, load=1.0)
        return as_object(study(workload, contenders({"p": 1 * Weight()}, PRODUCTION), Fleet(2), seeds=3))

    assert played() == played()


def test_a_study_as_plain_data() -> None:
    workload = Workload(partial(iter, recording()), slots=2)
    found = as_object(study(workload, contenders({"p": 1 * Weight()}, PRODUCTION), Fleet(2), by="weight"), limit=1)
    assert (found["open_loop"], found["tasks"], found["seeds"], found["resampled"]) == (True, 60, 1, False)
    by_name = {each["name"]: each for each in found["contenders"]}
    kinds = {name: each["kind"] for name, each in by_name.items()}
    assert kinds["p"] == "policy"
    assert kinds["p, exact order"] == kinds["shortest job (known run times)"] == "bound"
    assert set(by_name["p"]["classes"]) == {"weight 1", "weight 9"}
    assert len(by_name["p"]["keys"]) == 1
    assert by_name["p"]["mean_wait"].keys() == {"mean", "low", "high"}
    (comparison,) = found["comparisons"]
    assert comparison["policy"] == "p"


def test_without_workers_the_trace_has_to_tell_them() -> None:
    chosen = [Contender("one", Kind.PLAIN, FirstCome), Contender("two", Kind.BOUND, ShortestJob)]
    with pytest.raises(ArgumentError, match="does not say which there were"):
        study(Workload(partial(iter, recording())), chosen, Fleet(None))
    entries: list[Entry] = [Slots(0.0, "w", 2), *recording()]
    found = study(Workload(partial(iter, entries)), chosen, Fleet(None))
    assert found.figures["one"][0].utilization > 0
    with pytest.raises(ArgumentError, match="resampled"):
        study(Workload(partial(iter, entries)), chosen, Fleet(None), seeds=2)


def test_many_classes_become_few() -> None:
    tasks = [Task(0.0, f"t{number}", 1.0) for number in range(30)] + [Task(0.0, "t5", 1.0)]
    of = classes(partial(iter, tasks), "name")
    assert len({of(task) for task in tasks}) == 12
    assert (of(tasks[5]), of(tasks[29])) == ("t5", OTHERS)
    assert extent(tasks) == Extent(31, 0.0, 0.0, 31.0, has_slots=False)
