"""What every store of the leaders' guidance does."""

from __future__ import annotations

import pytest

from celery_dynprio.levels import Bands
from celery_dynprio.ports.guidance import MOST_ENTRIES, Guidance
from celery_dynprio.runtimes import Runtimes, Sums
from celery_dynprio.testing import pending_task
from tests.contract.conftest import Connect

BANDS = Bands(0.25, 0.75, 10)


def test_nothing_is_known_at_first(connect: Connect) -> None:
    assert connect().stores.guidance().read(["celery"]) == {}
    assert connect().stores.guidance().read([]) == {}


def test_what_one_process_publishes_others_read(connect: Connect) -> None:
    runtimes = Runtimes(
        {"mail": 2.0, "rëport": 3.5}, {"mail": Sums(4, 8, 20)}, {("mail", 'a "key"'): Sums(10.0, 50.0, 300.0)}
    )
    leader = connect().stores.guidance()
    leader.publish(
        "orders", Guidance(BANDS, runtimes, {"acme": 12.5, "": 1.0}, {"acme": 2.0}, {"": 30.0}, {"acme": 4.0})
    )
    leader.publish("mails", Guidance(Bands(0.0, 1.0, 4)))
    found = connect().stores.guidance().read(["mails", "nobody's", "orders"])
    assert {queue: guidance.bands for queue, guidance in found.items()} == {
        "orders": BANDS,
        "mails": Bands(0.0, 1.0, 4),
    }
    assert found["orders"].use == {"acme": 12.5, "": 1.0}
    assert found["orders"].running == {"acme": 2.0}
    assert (found["orders"].waiting, found["mails"].waiting) == ({"": 30.0}, {})
    assert found["orders"].shares == {"acme": 4.0}
    assert dict(found["orders"].runtimes) == {"mail": 2.0, "rëport": 3.5}
    for name, key in (("mail", 'a "key"'), ("mail", None), ("rëport", "x"), ("unknown", None)):
        task = pending_task(name, key=key)
        assert found["orders"].runtimes.expected(task) == pytest.approx(runtimes.expected(task), rel=0.01)


def test_the_last_one_counts(connect: Connect) -> None:
    for low in (0.1, 0.2):
        connect().stores.guidance().publish("celery", Guidance(Bands(low, 0.9, 10)))
    assert connect().stores.guidance().read(["celery"])["celery"].bands.low == pytest.approx(0.2)


def test_of_many_keys_and_names_the_largest_are_kept(connect: Connect) -> None:
    many = 3 * MOST_ENTRIES
    figures = {f"{number}": float(number + 1) for number in range(many)}
    pairs = {("mail", key): Sums(1.0, value, value) for key, value in figures.items()}
    connect().stores.guidance().publish("celery", Guidance(BANDS, Runtimes(figures, {}, pairs), figures))
    found = connect().stores.guidance().read(["celery"])["celery"]
    assert (len(found.runtimes), len(found.runtimes.pairs), len(found.use)) == (MOST_ENTRIES,) * 3
    assert found.use[str(many - 1)] == many
    assert str(many - MOST_ENTRIES - 1) not in found.use
