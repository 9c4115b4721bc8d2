"""Tells producers how the leader of a queue puts it in order."""

from __future__ import annotations

import logging
import math
from typing import Final

from celery_dynprio.complaints import Complaints
from celery_dynprio.ports.guidance import PUBLISH_INTERVAL, Guidance, GuidanceStore

logger: Final = logging.getLogger("celery_dynprio.reprioritizer")


class Guiding:
    """Publishes the guidance of one queue, once in :data:`PUBLISH_INTERVAL` at most; it never raises."""

    def __init__(self, store: GuidanceStore, queue: str) -> None:
        self._store = store
        self._queue = queue
        self._published = -math.inf
        self._complain = Complaints(logger, "producers are not told how tasks are put in order: %r")

    def tell(self, guidance: Guidance, now: float) -> None:
        """Publish it, unless that was done a moment before ``now`` (Unix seconds)."""
        if 0 <= now - self._published < PUBLISH_INTERVAL:
            return
        self._published = now
        try:
            self._store.publish(self._queue, guidance)
        except Exception as exc:  # noqa: BLE001 - a hint must not end a tick that has moved tasks
            self._complain(exc)
