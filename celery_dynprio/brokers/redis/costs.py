"""What a move costs the broker."""

from __future__ import annotations

from typing import Final

from celery_dynprio.brokers.redis.front import Front
from celery_dynprio.brokers.redis.parked import ParkedIndex
from celery_dynprio.brokers.redis.stubs import Entry, is_sought, size_of
from celery_dynprio.models import Move, Place, is_level

#: Seconds of broker time: a move costs the first, the second for each message that is passed on the way to its own, and
#: the third for each byte of it. With what a call costs beside its moves.
MOVE_SECONDS: Final = 20e-6
PASS_SECONDS: Final = 150e-9
BYTE_SECONDS: Final = 3e-9

#: What ``lua/move.lua`` counts for a move, a message that is passed, a byte that goes in or out, and one that is
#: compared with one of each message that is passed: microseconds, as they were measured for one call of many moves.
_MOVE, _PASS, _BYTE, _COMPARE = 10, 0.05, 0.004, 0.00013


def move_cost(move: Move, front: Front, overflow: ParkedIndex) -> float:
    """Return seconds of broker time."""
    if not is_level(move.source):
        return MOVE_SECONDS + BYTE_SECONDS * overflow.sizes.get(move.task.id, 0)
    entry, where = front.locate(move.task.ref)
    return MOVE_SECONDS + BYTE_SECONDS * size_of(entry) + abs(where) * PASS_SECONDS


def work_of(source: Place, entry: Entry, where: int) -> float:
    """Return how much of the work of one call ``lua/move.lua`` counts for this message where it is."""
    size, passed = size_of(entry), abs(where) if is_level(source) else 0
    return _MOVE + _BYTE * 2 * size + passed * (_PASS if is_sought(entry) else _PASS + _COMPARE * size)
