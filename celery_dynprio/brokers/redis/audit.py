"""What operators did: who, when, what, to which tasks, why, and how it ended. A bounded stream in the broker."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.ports.stores import Entry
from celery_dynprio.untrusted import MAX_TEXT, clean

#: How many entries are kept, about; the oldest go first. ``lua/move.lua`` has the same bound.
AUDIT_LENGTH: Final = 10_000

#: So many of the newest entries are looked through for the last pause.
RECENT: Final = 1_000

#: Entries that are read at a time.
CHUNK: Final = 500


class RedisAudit:
    """The stream of one broker. Raises what redis-py raises when the broker is away."""

    def __init__(self, client: RedisClient) -> None:
        self._redis = client.redis
        self._key = client.app_key("audit")

    def add(self, **entry: str) -> None:
        """Keep one entry: fields of :class:`Entry` without ``at``."""
        self._redis.xadd(self._key, {"entry": json.dumps(entry)}, maxlen=AUDIT_LENGTH, approximate=True)

    def read(self) -> Iterator[Entry]:
        """All entries, the newest first; what is not as this package writes it is passed over."""
        upto = "+"
        while rows := self._redis.xrevrange(self._key, max=upto, count=CHUNK):
            for number, fields in rows:
                entry = _read(number, fields)
                if entry is not None:
                    yield entry
            upto = f"({rows[-1][0].decode()}"

    def last_pause(self) -> Entry | None:
        """The newest pause or drain; None if it was so long ago that newer entries have taken its place."""
        return next((entry for entry in islice(self.read(), RECENT) if entry.op in {"pause", "drain"}), None)


def _read(number: bytes, fields: Mapping[bytes, bytes]) -> Entry | None:
    try:
        found: Any = json.loads(fields[b"entry"])
        at = int(number.partition(b"-")[0]) / 1000
    except (KeyError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    texts = {name: clean(found.get(name), MAX_TEXT) for name in ("op", "by", "why", "queue", "id", "task")}
    return Entry(at, **texts, answer=clean(found.get("answer")) or "done")
