"""The search: what it tries, which of it is the front, and how it ends."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from celery_dynprio import Age, Deadline, DynPrioError, Policy, Weight
from celery_dynprio.errors import ArgumentError
from celery_dynprio.lab.knobs import Knobs
from celery_dynprio.lab.search import MISSING, Search, Searched, Trial, Values, require_optuna, spread

POLICY = 2 * Deadline(horizon=60.0) + 1 * Age(saturation=300.0)


def numbers(policy: Policy) -> list[float]:
    return [knob.own for knob in Knobs(policy).all]


def conflict(policy: Policy) -> Values:
    """Two objectives that want opposite things of the horizon, and one and the same of the saturation."""
    horizon, _, saturation = numbers(policy)
    return horizon + abs(saturation - 100.0), horizon


def searched(trials: int, seed: int = 0, play: Callable[[Policy], Values] = conflict) -> Searched:
    return Search(Trial(POLICY, play(POLICY)), [False, True], seed=seed).run(play, trials=trials)


def test_the_present_policy_is_tried_first_and_unchanged() -> None:
    found = searched(5)
    assert found.trials[0] == Trial(POLICY, conflict(POLICY))
    assert len(found.trials) == 6
    assert not found.cut_short


def test_the_same_seed_tries_the_same_policies() -> None:
    one, two, other = searched(40), searched(40), searched(40, seed=1)
    assert [repr(each) for each in one.trials] == [repr(each) for each in two.trials]
    assert [repr(each) for each in one.trials] != [repr(each) for each in other.trials]
    assert [each.values for each in searched(10).trials] == [each.values for each in one.trials[:11]]


def test_the_front_is_what_nothing_beats() -> None:
    found = searched(60)
    for each in found.front:
        less, more = each.values
        assert not any(
            a <= less and b >= more and (a, b) != each.values for a, b in (one.values for one in found.trials)
        )
    beaten = [each for each in found.trials if each.values not in {one.values for one in found.front}]
    for each in beaten:
        assert any(one.values[0] <= each.values[0] and one.values[1] >= each.values[1] for one in found.front)
    assert len(found.front) > 3


def test_of_policies_that_attain_the_same_the_first_is_in_the_front() -> None:
    found = searched(10, play=lambda _: (1.0, 1.0))
    assert found.front == [found.trials[0]]


def test_a_search_finds_what_is_better() -> None:
    def play(policy: Policy) -> Values:
        return (abs(numbers(policy)[0] - 20.0),)

    found = Search(Trial(POLICY, play(POLICY)), [False]).run(play, trials=60)
    assert len(found.front) == 1
    assert found.front[0].values[0] < 5


def test_it_ends_when_it_is_enough() -> None:
    tried: list[int] = []
    search = Search(Trial(POLICY, conflict(POLICY)), [False, True])
    found = search.run(conflict, trials=50, enough=lambda: len(tried) >= 7, progress=lambda: tried.append(1))
    assert len(found.trials) == 8
    assert found.cut_short


@pytest.mark.parametrize("tried", [0, 7])
def test_an_interrupt_leaves_what_was_found(tried: int) -> None:
    played: list[Policy] = []

    def play(policy: Policy) -> Values:
        if len(played) == tried:
            raise KeyboardInterrupt
        played.append(policy)
        return conflict(policy)

    found = Search(Trial(POLICY, conflict(POLICY)), [False, True]).run(play, trials=50)
    assert [each.values for each in found.trials] == [each.values for each in searched(tried).trials]
    assert found.cut_short
    assert found.front


def test_a_policy_without_numbers_is_refused() -> None:
    with pytest.raises(ArgumentError, match="it has no number to search for"):
        Search(Trial(1 * Weight(), (0.0,)), [False])


def test_without_optuna_it_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    require_optuna()
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(DynPrioError, match='pip install "optuna>='):
        require_optuna()
    assert MISSING.count('"') == 2


def points(*values: Values) -> list[Trial]:
    return [Trial(POLICY, each) for each in values]


def test_a_spread_has_the_best_of_each_objective_and_then_the_gaps() -> None:
    front = points((1, 1), (2, 9), (3, 10), (4, 11), (5, 40), (9, 100))
    assert [each.values for each in spread(front, [False, True], 2)] == [(1, 1), (9, 100)]
    assert [each.values for each in spread(front, [False, True], 3)] == [(1, 1), (5, 40), (9, 100)]
    assert spread(front, [False, True], 10) == front


def test_a_spread_of_one_objective_is_its_best() -> None:
    assert spread(points((3,)), [True], 5) == points((3,))
