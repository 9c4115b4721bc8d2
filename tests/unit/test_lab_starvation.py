"""No factor starves what it does not like, under a policy with an Age factor: replayed with the planner of production.

Four slots get more than they can do of what a factor likes, and a few long tasks that it does not like.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from celery_dynprio.lab.contenders import Production
from celery_dynprio.lab.measures import measures
from celery_dynprio.lab.recording import Task
from celery_dynprio.lab.replay import Fleet, replay
from celery_dynprio.policies import Age, Deadline, Dependents, Factor, FairShare, Policy, ShortestFirst, Weight

WORKERS = 4
SATURATION = 10.0
#: For so long (seconds) come so many liked tasks a second, each of which runs so long: 5 % more than the slots can do.
SECONDS, RATE, RUN = 120, 21, 0.2
#: A tick, and what is at level 0 when a task is lifted to it: 0.05 * 60 seconds of liked tasks, and 4 disliked ones.
SLACK = 1.0 + 3.0 + 4 * 5.0 / WORKERS


def recording() -> Iterator[Task]:
    for number in range(SECONDS * RATE):
        at = number / RATE
        if number % (5 * RATE) == 0 and number < 20 * RATE:
            yield Task(at, "disliked", 5.0, key="heavy", weight=0.0)
        yield Task(at, "liked", RUN, f"key {number % 50}", weight=10.0, deadline=5.0, dependents=10)


def longest_wait(policy: Policy) -> float:
    """Seconds that a task waited which the policy does not like."""
    record = replay(recording(), Production().planned(policy), Fleet(WORKERS), group=lambda task: task.name)
    return measures(record).groups["disliked"].longest


@pytest.mark.parametrize(
    "factor",
    [ShortestFirst(scale=0.5), FairShare(), Weight(), Deadline(5), Deadline(5, finish=0.9), Dependents()],
    ids=repr,
)
def test_what_a_factor_does_not_like_waits_for_its_patience_and_not_longer(factor: Factor) -> None:
    policy = 50 * factor + 1 * Age(saturation=SATURATION)
    assert policy.patience is not None
    assert longest_wait(policy) <= policy.patience + SLACK
    if not isinstance(factor, Deadline):  # all begin at the last level under it, where what is not liked has its turn
        assert longest_wait(1 * factor) > 2 * policy.patience, "without an Age factor it starves, so the test has teeth"
