"""The latest moves of reprioritizers, from the Celery events that Flower receives.

Moved tasks are added to Flower's state, so that its list shows them. Their state does not change.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from flower.events import Events

from celery_dynprio.message import MAX_ID
from celery_dynprio.monitoring.events import TYPE, follow
from celery_dynprio.untrusted import clean, number

#: How many moves are kept.
LENGTH: Final = 200

#: The fields that Celery adds to each event, and those that Flower needs about a task.
_SENT: Final = ("hostname", "timestamp", "local_received", "clock", "pid", "utcoffset", "uuid", "name", "queue")

#: The prefix of senders that belong to this package and are not workers.
_OURS: Final = "dynprio@"


class Feed:
    """The last moves, the newest first."""

    def __init__(self) -> None:
        self._moves: deque[dict[str, Any]] = deque(maxlen=LENGTH)

    def add(self, event: Mapping[str, Any]) -> None:
        """Keep a move. Anyone who reaches the broker may have sent it, so nothing in it is trusted."""
        texts = {name: clean(event.get(name), MAX_ID) for name in ("uuid", "name", "queue", "from", "to", "reason")}
        score = number(event.get("score"), 0.0)
        self._moves.appendleft({"at": number(event.get("timestamp"), 0.0), "score": score, **texts})

    def entries(self) -> list[dict[str, Any]]:
        """Return all moves that are kept."""
        return list(self._moves)


class FollowedEvents(Events):
    """Flower's thread of events, which also receives moves."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.feed = Feed()
        follow(self.state)

    def on_event(self, event: dict[str, Any]) -> None:
        """Pass the event to Flower's loop, the only thread that touches the state."""
        if event.get("type") == TYPE:
            self.io_loop.add_callback(self._moved, event)
            return
        super().on_event(event)
        if event.get("type") == "task-revoked" and str(event.get("hostname")).startswith(_OURS):
            # An operator's event of a cancelled task looks like a worker's: Celery's State takes its sender for one.
            self.io_loop.add_callback(self.state.workers.pop, event["hostname"], None)

    def _moved(self, event: dict[str, Any]) -> None:
        if not isinstance(event.get("uuid"), str):
            return
        if event["uuid"] not in self.state.tasks:
            # As the publisher's own event does, so that Flower's search finds the task as well.
            self.state.event({"type": "task-sent"} | {name: event[name] for name in _SENT if name in event})
        self.state.event(event)
        self.feed.add(event)
