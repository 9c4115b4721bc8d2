"""The moves that reprioritizers made last, from Celery's events, as Flower hears them.

Flower's state learns of the tasks that are moved, so that its list shows them, and keeps what it knows of their state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from flower.events import Events

from celery_dynprio.message import MAX_ID, clean, number
from celery_dynprio.monitoring.events import TYPE, follow

#: Moves that are kept.
LENGTH: Final = 200

#: What Celery adds to each event, and what Flower needs to know of a task.
_SENT: Final = ("hostname", "timestamp", "local_received", "clock", "pid", "utcoffset", "uuid", "name", "queue")

#: How the names of those begin who send events for this package, and are no workers.
_OURS: Final = "dynprio@"


class Feed:
    """The last moves, the newest first."""

    def __init__(self) -> None:
        self._moves: deque[dict[str, Any]] = deque(maxlen=LENGTH)

    def add(self, event: Mapping[str, Any]) -> None:
        """Keep a move; whoever reaches the broker may have sent it, so it may say anything."""
        texts = {name: clean(event.get(name), MAX_ID) for name in ("uuid", "name", "queue", "from", "to", "reason")}
        score = number(event.get("score"), 0.0)
        self._moves.appendleft({"at": number(event.get("timestamp"), 0.0), "score": score, **texts})

    def entries(self) -> list[dict[str, Any]]:
        """All of them."""
        return list(self._moves)


class FollowedEvents(Events):
    """Flower's thread of events, which hears of moves too."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.feed = Feed()
        follow(self.state)

    def on_event(self, event: dict[str, Any]) -> None:
        """Hand it over to Flower's loop, the only thread that touches the state."""
        if event.get("type") == TYPE:
            self.io_loop.add_callback(self._moved, event)
            return
        super().on_event(event)
        if event.get("type") == "task-revoked" and str(event.get("hostname")).startswith(_OURS):
            # An operator told of a cancelled task as a worker would: Celery's State takes the sender for one.
            self.io_loop.add_callback(self.state.workers.pop, event["hostname"], None)

    def _moved(self, event: dict[str, Any]) -> None:
        if not isinstance(event.get("uuid"), str):
            return
        if event["uuid"] not in self.state.tasks:
            # As the publisher's own event would, so that Flower's search finds the task too.
            self.state.event({"type": "task-sent"} | {name: event[name] for name in _SENT if name in event})
        self.state.event(event)
        self.feed.add(event)
