"""The sign of life of operators who cancel tasks."""

from __future__ import annotations

from tests.contract.conftest import Connect
from tests.processes import wait_until


def test_a_sign_of_life_is_seen_by_all(connect: Connect) -> None:
    one, other = connect().stores.cancellations(), connect().stores.cancellations()
    assert not other.under_way()
    one.show_life("ada@pc", 60)
    assert other.under_way()


def test_a_sign_of_life_runs_out(connect: Connect) -> None:
    cancellations = connect().stores.cancellations()
    cancellations.show_life("ada@pc", 0.05)
    wait_until(lambda: not cancellations.under_way())


def test_the_last_sign_of_life_counts(connect: Connect) -> None:
    cancellations = connect().stores.cancellations()
    cancellations.show_life("ada@pc", 60)
    cancellations.show_life("ada@pc", 0.05)
    wait_until(lambda: not cancellations.under_way())
