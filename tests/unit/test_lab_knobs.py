"""The numbers of a policy: which there are, and the policy with other ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_dynprio import Age, Deadline, Dependents, FairShare, Gauge, Max, Min, Policy, ShortestFirst, Weight, factor
from celery_dynprio.lab.knobs import REACH, Knob, Knobs
from celery_dynprio.models import Context, PendingTask
from celery_dynprio.policies import Factor, Scorer, default_policy


@factor
def night(task: PendingTask, context: Context) -> float:
    return 0.5


@dataclass(frozen=True)
class Own(Factor):
    """A user's own factor."""

    share: float = 0.5
    tries: int = 3
    off: float = 0.0
    name_of: str = "x"
    strict: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(self.share)

    def bind(self, context: Context) -> Scorer:  # noqa: ARG002
        return lambda _: self.share


def titles(policy: Policy) -> Sequence[str]:
    return [knob.title for knob in Knobs(policy).all]


def test_the_numbers_of_the_default_policy() -> None:
    assert [(knob.title, knob.own) for knob in Knobs(default_policy()).all] == [
        ("horizon of Deadline", 40.0),
        ("weight of Weight", 2.0),
        ("weight of FairShare", 9.0),
        ("weight of Age", 1.0),
        ("saturation of Age", 300.0),
        ("weight of ShortestFirst", 40.0),
    ]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (1 * Weight(), []),
        (1 * Weight() + 2 * night, ["weight of night"]),
        (1 * Weight() + 2 * Gauge(0.5), ["weight of Gauge"]),
        (1 * Max(Deadline(), Min(Age(), ShortestFirst())), ["horizon", "saturation", "scale"]),
        (1 * Dependents(), ["saturation"]),
        # The share cannot be ten times as large; a number that is 0, a text and a flag cannot be turned.
        (1 * Own(), ["tries"]),
    ],
)
def test_what_can_be_turned(policy: Policy, expected: Sequence[str]) -> None:
    assert [title.removesuffix(f" of {title.rpartition(' ')[2]}") for title in titles(policy)] == [
        each.partition(" of ")[0] for each in expected
    ]


@given(st.data())
def test_a_policy_with_other_numbers_has_these_and_nothing_else_changed(data: st.DataObject) -> None:
    policy = 4 * Deadline(60.0) + 2 * Max(Weight(), night, Age(30.0)) + 3 * FairShare() + 1 * Own(tries=5)
    knobs = Knobs(policy)
    drawn = [data.draw(st.floats(knob.low, knob.high).map(knob.value)) for knob in knobs.all]
    other = knobs.policy(drawn)
    assert [knob.own for knob in Knobs(other).all] == drawn
    assert [knob.title for knob in Knobs(other).all] == [knob.title for knob in knobs.all]
    assert other.terms[0][0] == 4
    assert repr(knobs.policy([knob.own for knob in knobs.all])) == repr(
        4 * Deadline(60.0) + 2.0 * Max(Weight(), night, Age(30.0)) + 3.0 * FairShare() + 1.0 * Own(tries=5)
    )


def test_what_is_printed_can_be_pasted() -> None:
    policy = Knobs(default_policy()).policy([8.123, 2.0, 3.0, 1.0, 60.0, 0.5, 300.0])
    assert eval(repr(policy)).terms == policy.terms  # noqa: S307 - as a user's settings do


def test_values_have_two_digits_and_whole_numbers_stay_whole() -> None:
    assert Knob("a", 60.0).value(123.456) == 120.0
    assert Knob("a", 60.0).value(0.012345) == 0.012
    whole = Knob("a", 3, whole=True)
    assert (whole.low, whole.high, whole.value(7.6)) == (1, 3 * REACH, 8)
