"""What every store of shares does."""

from __future__ import annotations

import time

from celery_dynprio.ports.stores import SetShare
from tests.contract.conftest import Connect


def test_what_one_operator_sets_all_read(connect: Connect) -> None:
    now = time.time()
    shares = [SetShare("", 0.5), SetShare("köln \n", 4.0, round(now + 60)), SetShare("x", 0.1)]
    assert list(connect().stores.shares().read(now)) == []
    for each in reversed(shares):
        connect().stores.shares().set(each, now)
    assert list(connect().stores.shares().read(now)) == shares


def test_the_last_one_of_a_key_counts(connect: Connect) -> None:
    store = connect().stores.shares()
    store.set(SetShare("acme", 4.0), 0.0)
    store.set(SetShare("acme", 2.0), 0.0)
    assert list(store.read(0.0)) == [SetShare("acme", 2.0)]


def test_it_counts_until_its_time_or_its_removal(connect: Connect) -> None:
    store = connect().stores.shares()
    store.set(SetShare("acme", 4.0, 100.0), 0.0)
    store.set(SetShare("bolt", 4.0, 200.0), 0.0)
    store.set(SetShare("carl", 4.0, 300.0), 150.0)  # drops what is over
    assert [each.key for each in connect().stores.shares().read(150.0)] == ["bolt", "carl"]
    assert [store.remove(key) for key in ("bolt", "bolt", "acme")] == [True, False, False]
    assert [each.key for each in store.read(150.0)] == ["carl"]
