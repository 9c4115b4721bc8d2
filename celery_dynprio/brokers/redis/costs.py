"""What a move costs the broker."""

from __future__ import annotations

from typing import Final

from celery_dynprio.brokers.redis.front import Front
from celery_dynprio.brokers.redis.parked import ParkedIndex
from celery_dynprio.brokers.redis.stubs import size_of
from celery_dynprio.models import Move, is_level

#: Seconds of broker time: a move costs the first, and the second for each message that LREM passes on its way.
MOVE_SECONDS: Final = 20e-6
PASS_SECONDS: Final = 150e-9

#: Of smaller messages (bytes), what comparing two takes is in PASS_SECONDS.
SMALL: Final = 2_000

#: The same for each byte of the message, and for each that is compared with that of another one of its size.
BYTE_SECONDS: Final = 3e-9
COMPARE_SECONDS: Final = 0.2e-9


def move_cost(move: Move, front: Front, overflow: ParkedIndex) -> float:
    """Return seconds of broker time: LREM compares the message with all it passes that are as large."""
    if not is_level(move.source):
        return MOVE_SECONDS + BYTE_SECONDS * overflow.sizes.get(move.task.id, 0)
    entry, where = front.locate(move.task.ref)
    size, passing = size_of(entry), PASS_SECONDS
    if size > SMALL:
        passing += COMPARE_SECONDS * size * front.share(move.source, size)
    return MOVE_SECONDS + BYTE_SECONDS * size + abs(where) * passing
