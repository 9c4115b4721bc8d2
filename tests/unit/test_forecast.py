"""When a task is expected to start: what is before it, what may come, and how wide the range is for that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_dynprio.engine.draws import Range
from celery_dynprio.engine.forecast import SINGLE, forecast
from celery_dynprio.engine.ordering import Turn
from celery_dynprio.engine.scene import Scene, Taken
from celery_dynprio.models import Context, PendingTask
from celery_dynprio.policies import Age, Policy, Weight
from celery_dynprio.runtimes import Runtimes, Sums

NOW: Final = 1_000.0
OLDEST_FIRST: Final = 1 * Age(3600)


def learned(variation: float = 0.0, **means: float) -> Runtimes:
    runs = 1e9
    return Runtimes(
        means, {name: Sums(runs, runs * mean, runs * mean**2 * (1 + variation**2)) for name, mean in means.items()}
    )


def turns(*names: str, weight: float = 1.0) -> list[Turn]:
    waits = range(len(names) + 10, 10, -1)
    tasks = [
        PendingTask(str(number), name, NOW - wait, weight)
        for number, (name, wait) in enumerate(zip(names, waits, strict=True))
    ]
    return [Turn("celery", task, 5, number + 1, 0.5, NOW - task.published) for number, task in enumerate(tasks)]


def scene(waiting: Sequence[Turn], runtimes: Runtimes, taken: Sequence[Taken] = (), slots: int = 1) -> Scene:
    return Scene("celery", Context(NOW, runtimes), waiting, {"w": slots}, {"w": 4}, {"w": taken})


def start(found: Scene, index: int = -1, policy: Policy = OLDEST_FIRST) -> Range:
    told = forecast(found, index % len(found.turns), policy.bind)
    assert told is not None
    return Range(*(at - NOW for at in told))


def test_the_next_one_starts_now_if_a_slot_is_free() -> None:
    assert start(scene(turns("a"), learned(a=5.0))) == (0.0, 0.0, 0.0)
    assert start(scene(turns("a", "a"), learned(a=5.0), slots=2)) == (0.0, 0.0, 0.0)


def test_what_is_before_it_counts_and_newcomers_of_its_kind_do_not() -> None:
    found = start(scene(turns("a", "a", "a"), learned(a=5.0)))
    assert found.low < 10 < found.high  # the learned mean may be off
    assert found.median == pytest.approx(10, rel=0.15)
    assert found.high < 20


def test_what_runs_is_nearly_done_or_has_just_begun_and_what_is_reserved_goes_first() -> None:
    task = PendingTask("r", "a", 0)
    done, begun = (start(scene(turns("a"), learned(a=5.0), [Taken(task, NOW - ran)])).median for ran in (4.5, 0.5))
    assert done == pytest.approx(0.5, rel=0.15)
    assert begun == pytest.approx(4.5, rel=0.15)
    waits = start(scene(turns("a"), learned(a=5.0), [Taken(task, NOW - 5.0), Taken(task, None)])).median
    assert waits == pytest.approx(5.0, rel=0.15)


def test_kinds_that_run_and_never_wait_overtake() -> None:
    alone = start(scene(turns("a", "a"), learned(a=10.0)))
    beside = start(scene(turns("a", "a"), learned(a=10.0, quick=10.0)))
    assert beside.median > alone.median
    assert beside.high > 1.5 * alone.high


def test_what_is_more_important_overtakes_and_what_is_less_does_not() -> None:
    both = replace(scene(turns("a", "a"), learned(a=10.0, b=10.0)), turns=[*turns("a", "a"), *turns("b", weight=9.0)])
    less = replace(both, turns=[*turns("a", "a", weight=5.0), *turns("b", weight=1.0)])
    assert start(both, 1, 1 * Weight()).high > 1.5 * start(less, 1, 1 * Weight()).high
    assert start(less, 1, 1 * Weight()) == pytest.approx(
        start(scene(turns("a", "a", weight=5.0), learned(a=10.0)), 1, 1 * Weight())
    )


def test_what_ages_is_overtaken_for_a_while_only() -> None:
    waiting = [*turns(*["a"] * 40), *turns("b", weight=9.0)]
    found = scene(waiting, learned(a=10.0, b=10.0))
    forever, soon = (start(found, 39, 1 * Weight() + weight * Age(60)) for weight in (0.01, 10))
    assert soon.high < forever.high


def test_more_varied_run_times_make_wider_ranges() -> None:
    steady, varied = (start(scene(turns(*["a"] * 5), learned(variation, a=5.0))) for variation in (0.0, 2.0))
    assert varied.high - varied.low > steady.high - steady.low


def test_a_deep_backlog_is_summed_up() -> None:
    found = scene(turns(*["a"] * (3 * SINGLE)), learned(a=1.0), slots=10)
    assert start(found).median == pytest.approx(3 * SINGLE / 10, rel=0.15)


def test_an_unknown_name_counts_as_the_mean_of_all() -> None:
    assert (
        start(scene(turns("new", "a"), learned(a=5.0, b=15.0))).low
        < 10
        < start(scene(turns("new", "a"), learned(a=5.0, b=15.0))).high
    )


def test_nobody_knows_without_a_slot_or_a_learned_runtime() -> None:
    assert forecast(scene(turns("a"), Runtimes()), 0, OLDEST_FIRST.bind) is None
    assert forecast(scene(turns("a"), learned(a=1.0), slots=0), 0, OLDEST_FIRST.bind) is None


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "b", "unknown"]), min_size=1, max_size=20),
    st.floats(0, 3),
    st.integers(1, 4),
    st.lists(st.none() | st.floats(0, 100), max_size=6),
    st.booleans(),
)
def test_a_range_is_one_and_the_same_at_each_call(
    names: list[str],
    variation: float,
    slots: int,
    ran: list[float | None],
    pinned: bool,  # noqa: FBT001 - drawn
) -> None:
    taken = [
        Taken(PendingTask(f"r{number}", "a", 0), None if each is None else NOW - each)
        for number, each in enumerate(ran)
    ]
    waiting = turns(*names)
    if pinned:
        waiting[-1] = replace(waiting[-1], task=replace(waiting[-1].task, pinned=0))
    found = scene(waiting, learned(variation, a=1.0, b=20.0), taken, slots)
    told = start(found)
    assert 0 <= told.low <= told.median <= told.high
    assert told == start(found)
    assert start(found, 0).median <= told.high
