"""What workers tell recorders, on every broker."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_dynprio.ports.feed import Batch, Ended
from tests.contract.conftest import Connect

FULL = Ended(
    "1", "shop.pay", "celery", "w@h", 7, "RETRY", 2, 1.0, 2.0, 1.5, 0.25, "ada", 5.0, 31.0, 3, 4, 5, 0
)  # fmt: skip
PLAIN = Ended("2", "shop.see", "", "", 0, "REVOKED", 1, None, None, None, 0.0)


def test_every_recorder_reads_what_comes_after_its_first_read(connect: Connect) -> None:
    worker, one, two = (connect().stores.feed() for _ in range(3))
    worker.add(Batch("w", 1, [PLAIN]))
    assert one.read() == []
    worker.add(Batch("w", 3, [FULL, PLAIN]))
    assert two.read() == []
    worker.add(Batch("v", 1, [FULL]))
    assert one.read() == [Batch("w", 3, [FULL, PLAIN]), Batch("v", 1, [FULL])]
    assert two.read() == [Batch("v", 1, [FULL])]
    assert one.read() == two.read() == []


def test_workers_are_asked_for_a_while(connect: Connect) -> None:
    recorder, worker = connect().stores.feed(), connect().stores.feed()
    assert not worker.asked()
    recorder.ask(60.0)
    assert worker.asked()
    recorder.ask(0.001)
    while worker.asked():
        pass


def test_more_than_one_read_takes_comes_once_each_and_in_order(connect: Connect) -> None:
    worker, recorder = connect().stores.feed(), connect().stores.feed()
    recorder.read()
    for number in range(250):
        worker.add(Batch("w", number, [PLAIN]))
    assert [batch.total for batch in recorder.read()] == list(range(250))


@given(st.text() | st.binary() | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps))
def test_no_row_is_too_strange_to_be_read(text: str | bytes) -> None:
    found = Ended.from_json(text)
    assert found is None or Ended.from_json(found.to_json()) == found


@pytest.mark.parametrize("row", [FULL, PLAIN])
def test_rows_of_other_versions_are_read(row: Ended) -> None:
    known = json.loads(row.to_json())
    assert Ended.from_json(json.dumps([*known, "what a newer version adds"])) == row
    assert Ended.from_json(json.dumps(known[:11])) == Ended(*row[:11])
