"""The runs that are alone in their traces and ended well, as most do: many in one entry of a stream.

A trace of its own in Redis takes four times the memory, and five commands of the server.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.reading import Pace
from celery_dynprio.chunks import chunks
from celery_dynprio.tracing.records import LoneRun, SpanRecord, lone_from_json, lone_to_json

#: Runs in one entry: less than a millisecond of the server's time.
CHUNK: Final = 100


class Found(NamedTuple):
    """A run, and when its time is over (Unix seconds by the server's clock)."""

    until: float
    record: SpanRecord


class LoneRuns:
    """These runs in the broker's Redis: each for ``ttl`` seconds, and at most ``total`` of them, the latest."""

    def __init__(self, client: RedisClient, ttl: float, total: int) -> None:
        self._client = client
        self._bounds = (ttl, total)
        self._chunk = min(CHUNK, total)
        self._key = client.app_key("lone_runs")
        self._record = client.script("lone_runs")

    def add(self, runs: Sequence[LoneRun]) -> Iterator[int]:
        """Store these runs; gives how many of them the server has taken, each time that it has answered."""
        for chunk in chunks(runs, self._chunk):
            self._record(keys=[self._key], args=[*self._bounds, len(chunk), lone_to_json(chunk)])
            yield len(chunk)

    def with_id(self, wanted: str) -> list[Found]:
        """Return the runs whose trace or task has this id, the newest first."""
        return [each for each in self._with(_quoted(wanted)) if wanted in {each.record.trace_id, each.record.task_id}]

    def ids_with(self, start: str) -> set[str]:
        """Return the ids of traces and tasks that begin with this text."""
        records = [found.record for found in self._with(_quoted(start)[:-1])]
        return {each for record in records for each in (record.trace_id, record.task_id) if each.startswith(start)}

    def _with(self, text: bytes) -> Iterator[Found]:
        """Return the runs of all entries that have this in their JSON, the newest first."""
        now, last, pace = self._client.server_time(), "+", Pace()
        while rows := self._client.redis.xrevrange(self._key, max=last, min="-", count=pace.size):
            last = f"({rows[-1][0].decode()}"
            entries = [(fields.get(b"runs", b""), _number(fields.get(b"until"))) for _, fields in rows]
            pace.learn(len(rows), sum(len(runs) for runs, _ in entries))
            for runs, until in entries:
                if text in runs and until > now:
                    yield from (Found(until, record) for record in reversed(lone_from_json(runs)))


def _quoted(text: str) -> bytes:
    return json.dumps(text).encode()


def _number(value: bytes | None) -> float:
    try:
        return float(value or b"")
    except ValueError:
        return 0.0
