"""What workers tell recorders: a bounded stream, which is there only while somebody records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.ports.feed import Batch, Ended

#: Batches that are kept at most, about; the oldest go first.
MAX_BATCHES: Final = 5_000

#: Seconds for which batches are kept for other recorders, and after which the stream goes when nobody adds to it.
KEPT: Final = 60.0

#: Batches that are read at a time, and that are deleted at a time, about.
CHUNK: Final = 20
TRIMMED: Final = 1000


class RedisFeed:
    """The stream of one broker. Raises what redis-py raises when the broker is away."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._redis = client.redis
        self._key, self._asking = client.app_key("feed"), client.app_key("recording")
        self._last: str | None = None

    def ask(self, seconds: float) -> None:
        """Ask all workers to tell, for so long from now on."""
        self._redis.set(self._asking, "", px=int(seconds * 1000))

    def asked(self) -> bool:
        """Whether a recorder asks now."""
        return bool(self._redis.exists(self._asking))

    def add(self, batch: Batch) -> None:
        """Tell all recorders."""
        rows = "\n".join(each.to_json() for each in batch.ended)
        fields = {"from": batch.sender, "total": batch.total, "ended": rows}
        pipe = self._redis.pipeline(transaction=False)
        pipe.xadd(self._key, fields, maxlen=MAX_BATCHES, approximate=True)
        pipe.pexpire(self._key, int(KEPT * 1000))
        pipe.execute()

    def read(self) -> list[Batch]:
        """Return what was told since the last call; what is malformed is left out, and counts as lost by its total."""
        if self._last is None:
            newest = self._redis.xrevrange(self._key, count=1)
            self._last = newest[0][0].decode() if newest else "0-0"
            return []
        found: list[Batch] = []
        while rows := self._redis.xrange(self._key, min=f"({self._last}", count=CHUNK):
            self._last = rows[-1][0].decode()
            found += (batch for _, fields in rows if (batch := _read(fields)) is not None)
        self._forget()
        return found

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def _forget(self) -> None:
        """Trim what every recorder has had the time to read."""
        oldest = int((self._last or "0").partition("-")[0]) - int(KEPT * 1000)
        if oldest > 0:
            while self._redis.xtrim(self._key, minid=oldest, limit=TRIMMED):
                pass  # after a recorder's stall there are many, and no command deletes them all


def _read(fields: Mapping[bytes, bytes]) -> Batch | None:
    try:
        sender, total = fields[b"from"].decode(), int(fields[b"total"])
        rows = fields[b"ended"].split(b"\n")
    except (KeyError, ValueError):  # also UnicodeDecodeError
        return None
    return Batch(sender, total, [row for text in rows if (row := Ended.from_json(text)) is not None])
