"""What the log of operations of every broker keeps."""

from __future__ import annotations

import time

from celery_dynprio.ports.stores import Entry
from tests.contract.conftest import Connect


def test_entries_are_read_the_newest_first_with_their_time(connect: Connect) -> None:
    before = time.time()
    audit = connect().stores.audit()
    audit.add(op="hold", by="ada@pc", why="too many", queue="celery", id="1", task="work", answer="not found")
    audit.add(op="pause", by="bob@pc")
    newest, oldest = connect().stores.audit().read()
    assert newest == Entry(newest.at, "pause", "bob@pc")
    assert oldest == Entry(oldest.at, "hold", "ada@pc", "too many", "celery", "1", "work", "not found")
    assert before - 1 < oldest.at <= newest.at < time.time() + 1


def test_without_entries_nothing_is_read(connect: Connect) -> None:
    audit = connect().stores.audit()
    assert list(audit.read()) == []
    assert audit.last_pause() is None


def test_the_last_pause_is_the_newest_pause_or_drain(connect: Connect) -> None:
    audit = connect().stores.audit()
    for op in ("pause", "drain", "resume", "bump"):
        audit.add(op=op, by="ada@pc")
    found = connect().stores.audit().last_pause()
    assert found is not None
    assert found.op == "drain"


def test_more_entries_than_one_read_takes_come_once_each(connect: Connect) -> None:
    audit = connect().stores.audit()
    for number in range(1_100):
        audit.add(op="hold", by="ada@pc", id=str(number))
    assert [entry.id for entry in audit.read()] == [str(number) for number in reversed(range(1_100))]
