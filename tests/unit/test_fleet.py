from __future__ import annotations

from collections.abc import Mapping

import pytest

from celery_dynprio.operators.fleet import SILENCE, Fleet
from celery_dynprio.operators.workers import Taker

ALL = frozenset(range(10))
PLAIN = frozenset((0, 3, 6, 9))


class Workers:
    """Workers that answer; each takes from the queues celery and its own."""

    def __init__(self) -> None:
        self.answering: dict[str, frozenset[int]] = {}
        self.now = 0.0
        self.fleet = Fleet(self._ask, lambda: self.now)

    def _ask(self) -> Mapping[str, Taker]:
        return {name: Taker(frozenset(("celery", name)), steps) for name, steps in self.answering.items()}

    def steps(self, seconds: float = 1.0, **answering: frozenset[int]) -> frozenset[int] | None:
        """What is known after these workers answered, so many seconds later."""
        self.now += seconds
        self.answering = answering
        self.fleet.look()
        return self.fleet.steps("celery")


@pytest.fixture
def workers() -> Workers:
    return Workers()


def test_nothing_is_known_before_a_worker_of_the_queue_answers(workers: Workers) -> None:
    assert workers.steps() is None
    workers.steps(one=ALL)
    assert workers.fleet.steps("other") is None


def test_it_is_what_all_workers_have_in_common(workers: Workers) -> None:
    assert workers.steps(one=ALL, two=ALL) == ALL
    assert workers.steps(one=ALL, two=ALL, three=PLAIN) == PLAIN
    assert workers.fleet.steps("two") == ALL
    assert workers.fleet.without("celery", ALL) == ["three"]


def test_a_worker_that_falls_silent_counts_for_a_while(workers: Workers) -> None:
    workers.steps(one=ALL, solo=PLAIN)
    assert workers.steps(SILENCE - 2, one=ALL) == PLAIN
    assert workers.steps(3, one=ALL) == ALL


def test_a_worker_that_was_upgraded_counts_as_it_says_now(workers: Workers) -> None:
    assert workers.steps(one=PLAIN) == PLAIN
    assert workers.steps(one=ALL) == ALL


def test_the_silence_of_all_changes_nothing(workers: Workers) -> None:
    workers.steps(one=ALL)
    assert workers.steps(10 * SILENCE) == ALL


def test_others_are_those_that_answered_last_time(workers: Workers) -> None:
    workers.steps(one=ALL, two=ALL, old=PLAIN)
    assert workers.fleet.has_others("celery", ALL, "one")
    workers.steps(one=ALL, old=PLAIN)
    assert not workers.fleet.has_others("celery", ALL, "one")
    assert workers.fleet.has_others("celery", ALL, "dedicated")


def test_a_broker_that_is_away_ends_nothing() -> None:
    def away() -> Mapping[str, Taker]:
        raise OSError("away")

    fleet = Fleet(away)
    fleet.start()  # returns once it was tried
    assert fleet.steps("celery") is None
    fleet.stop()
