"""Which levels of a queue may be used where all workers take from all of them, and what a broker counts."""

from __future__ import annotations

from celery_dynprio.models import CANCELLED, HELD, OVERFLOW
from tests.contract.conftest import Connect


def test_all_levels_are_plain_and_none_needs_to_be_emptied(connect: Connect) -> None:
    broker = connect()
    levels = broker.levels("celery")
    assert levels.plain == levels.now() == tuple(broker.scale.levels) == broker.scale.plain
    assert levels.keep(levels.now(), None) == 0
    assert levels.strays(levels.now()) == {}


def test_an_empty_queue_has_each_place_and_nothing_in_it(connect: Connect) -> None:
    broker = connect()
    places = {*broker.scale.levels, OVERFLOW, HELD, CANCELLED}
    counts = broker.counts(["celery", "mail"])
    assert {queue: dict(each) for queue, each in counts.items()} == dict.fromkeys(
        ("celery", "mail"), dict.fromkeys(places, 0)
    )
    assert (broker.delivered(), list(broker.unacknowledged())) == (0, [])
