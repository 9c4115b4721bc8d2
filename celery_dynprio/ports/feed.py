"""What workers tell recorders of the tasks that they ran, while a recorder asks for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Protocol

from celery_dynprio.message import MAX_ID, MAX_KEY
from celery_dynprio.untrusted import clean, number, text_of, whole


class Ended(NamedTuple):
    """A try of a task that ended, or a message that was discarded unrun. A tuple, because each try needs one."""

    id: str
    name: str
    queue: str
    #: The worker's node name, and the process that ran it.
    worker: str
    process: int
    #: Celery's state: SUCCESS, FAILURE, RETRY, REVOKED, REJECTED, IGNORED; STARTED if something outside ended it.
    state: str
    #: 1 for the first try.
    attempt: int
    #: Unix seconds of publishing, of the start and of the ETA; None if unknown, if it did not run, without an ETA.
    at: float | None
    started: float | None
    eta: float | None
    #: Seconds; 0 if it did not run.
    ran: float
    #: As in the message; ``due`` is the deadline in Unix seconds.
    key: str | None = None
    weight: float = 1.0
    due: float | None = None
    dependents: int = 0
    pinned: int | None = None
    #: The level at which it was published, and the one from which a worker took it; None if unknown.
    level: int | None = None
    start_level: int | None = None

    def to_json(self) -> str:
        """Return a JSON array of all fields, in this order."""
        return _encode(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> Ended | None:
        """Read the result of :meth:`to_json`, also of another version; None if it is malformed."""
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(row, list):
            return None
        found: dict[str, Any] = dict(zip(cls._fields, row, strict=False))
        known: dict[str, Any] = {field: clean(found.get(field)) for field in _TEXTS}
        known |= {"id": clean(found.get("id"), MAX_ID), "name": clean(found.get("name"), MAX_ID)}
        if not (known["id"] and known["name"]):
            return None
        known |= {field: number(found.get(field)) for field in ("at", "started", "eta", "due")}
        known |= {field: whole(found.get(field)) for field in ("pinned", "level", "start_level")}
        known |= {field: whole(found.get(field)) or 0 for field in ("process", "dependents")}
        return cls(
            **known,
            ran=number(found.get("ran"), 0.0),
            attempt=whole(found.get("attempt")) or 1,
            key=text_of(found.get("key"), MAX_KEY) or None,
            weight=number(found.get("weight"), 1.0),
        )


class Batch(NamedTuple):
    """What one process told at once."""

    #: Names the process; never that of another one.
    sender: str
    #: How many tries the process had to tell of so far, these and those that got lost on the way included.
    total: int
    ended: Sequence[Ended]


class Feed(Protocol):
    """A bounded way from all workers to each recorder: the oldest batches get lost where nobody reads in time."""

    def ask(self, seconds: float) -> None:
        """Ask all workers to tell, for so long from now on; a recorder asks again and again."""

    def asked(self) -> bool:
        """Whether a recorder asks now."""

    def add(self, batch: Batch) -> None:
        """Tell all recorders."""

    def read(self) -> Sequence[Batch]:
        """Return what was told since the last call, the oldest first; the first call returns nothing."""

    def close(self) -> None:
        """Close the connection that the feed was given."""


_TEXTS: Final = ("queue", "worker", "state")

_encode: Final = json.JSONEncoder(separators=(",", ":")).encode
