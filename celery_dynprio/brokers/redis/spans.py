"""The trace store: what is kept about each run of a task, and where.

A span is one run of a task, past or still to come. Each process that knows something about it adds a record. A later
record replaces an earlier one. Runs that are alone in their traces are kept elsewhere: see ``lone_runs``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.hashes import Hashes
from celery_dynprio.brokers.redis.lone_runs import Found, LoneRuns
from celery_dynprio.brokers.redis.search import escaped
from celery_dynprio.chunks import chunks
from celery_dynprio.ports.spans import CAUSES
from celery_dynprio.tracing.records import LoneRun, SpanRecord, Trace
from celery_dynprio.untrusted import clean

#: Records in one call of the script: less than a millisecond of the server's time.
CHUNK: Final = 50

#: How many traces are searched for a task at a time, and how many ids of traces are read at a time.
LOOKUP: Final = 500
IDS: Final = 2000

#: Seconds for which counts of dropped records are kept that nobody adds to.
DROPPED_KEPT: Final = 86_400

#: A count with more digits is none of ours.
MAX_DIGITS: Final = 15


class RedisSpans:
    """Spans in the broker's Redis, bounded in time and number.

    A trace is kept for ``ttl`` seconds after its last change, with at most ``spans`` spans; a tenth of them is reserved
    for failures. When all traces together have more than ``total`` spans, the oldest traces are deleted; runs that are
    alone in their traces are counted apart. Raises the errors of redis-py when the broker is away.
    """

    def __init__(self, client: RedisClient, ttl: float = 86_400.0, spans: int = 1000, total: int = 100_000) -> None:
        #: Records for which there was no room, and all records that the server has answered for.
        self.dropped = self.taken = 0
        self._client = client
        self._hashes = Hashes(client)
        self._bounds = (ttl, min(spans, total), total)
        self._keys = [client.app_key("traces"), client.app_key("trace_sizes")]
        self._prefix = client.app_key("trace:")
        self._record = client.script("trace_record")
        self._lone = LoneRuns(client, ttl, total)
        self._dropped_key = client.app_key("spans_dropped")
        self._reported: Counter[str] = Counter()

    def add(self, records: Sequence[SpanRecord], lone: Sequence[LoneRun] = ()) -> None:
        """Store these records and runs; those for which there is no room are counted in ``dropped``."""
        oldest: list[str] = []
        for chunk in chunks(records, CHUNK):
            oldest = self._call(chunk, oldest)
            self.taken += len(chunk)
        before: list[str] = []
        while oldest and oldest != before:  # what cannot be dropped comes again
            before, oldest = oldest, self._call((), oldest)
        for count in self._lone.add(lone):
            self.taken += count

    def read(self, trace_or_task_id: str) -> Trace | None:
        """Return the trace with this id, or the newest one with a task of this id; None if there is none.

        Anything malformed in Redis is ignored.
        """
        wanted = clean(trace_or_task_id)
        lone = self._lone.with_id(wanted)
        if any(each.record.trace_id == wanted for each in lone) or self._client.redis.exists(self._trace_key(wanted)):
            return self._trace(wanted, lone)
        trace_id = self._trace_of(wanted, lone[0] if lone else None)
        return None if trace_id is None else self._trace(trace_id, self._lone.with_id(trace_id))

    def _trace(self, trace_id: str, found: Sequence[Found]) -> Trace:
        # A run may be there several times, and in both places: its message was delivered again.
        lone = [each.record for each in found if each.record.trace_id == trace_id]
        spans = {record.field: record for record in reversed(lone[: self._bounds[1]])}
        dropped = 0
        for field, value in self._client.redis.hscan_iter(self._trace_key(trace_id), count=CHUNK):
            record = SpanRecord.from_json(trace_id, field.decode(errors="replace"), value[1:])
            if field == b"":
                dropped = int(value) if value.isdigit() else 0
            elif record is not None and record.rank >= spans.get(record.field, record).rank:
                spans[record.field] = record  # again, perhaps: a scan may give a field twice
        return Trace(trace_id, tuple(spans.values()), dropped)

    def add_dropped(self, totals: Mapping[str, int]) -> None:
        """Add by how much the totals of this process, by cause, have grown since they were last added."""
        grown = {cause: total - self._reported[cause] for cause, total in totals.items()}
        grown = {cause: count for cause, count in grown.items() if count > 0}
        if not grown:
            return
        pipe = self._client.redis.pipeline()
        for cause, count in grown.items():
            pipe.hincrby(self._dropped_key, cause, count)
        pipe.expire(self._dropped_key, DROPPED_KEPT)
        answers = pipe.execute(raise_on_error=False)
        for cause, answer in zip(grown, answers, strict=False):
            if not isinstance(answer, Exception):
                self._reported[cause] = totals[cause]
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer

    def dropped_counts(self) -> Mapping[str, int]:
        """Return the counts of all processes by cause; anything malformed in Redis counts as 0."""
        values = self._hashes.fields(self._dropped_key, list(CAUSES))
        return {cause: _count(value) for cause, value in zip(CAUSES, values, strict=True)}

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def _call(self, records: Sequence[SpanRecord], oldest: Sequence[str]) -> list[str]:
        keys = list(self._keys)
        arguments: list[Any] = [*self._bounds, len(self._prefix.encode()), len(records)]
        for record in records:
            keys.append(self._trace_key(record.trace_id))
            arguments += (record.field, f"{record.rank}{record.to_json()}")
        keys += map(self._trace_key, oldest)
        refused, *ids = self._record(keys=keys, args=arguments)
        self.dropped += refused
        return [trace_id.decode(errors="replace") for trace_id in ids]

    def _trace_of(self, task_id: str, lone: Found | None) -> str | None:
        """Find the newest trace with a task of this id, of whose lone runs ``lone`` is the newest.

        All traces are searched, so that no index must be kept.
        """
        trace_id = self._larger_trace_of(task_id)
        if trace_id is None or lone is None:
            return trace_id if lone is None else lone.record.trace_id
        until = self._client.redis.zscore(self._keys[0], trace_id)
        return trace_id if until is not None and until > lone.until else lone.record.trace_id

    def _larger_trace_of(self, task_id: str) -> str | None:
        pattern = f"{escaped(task_id)} *"
        for chunk in chunks(self._ids(), LOOKUP):
            for trace_id, found in zip(chunk, self._matching(chunk, pattern), strict=True):
                if found and trace_id == clean(trace_id):
                    return trace_id
        return None

    def ids_with(self, start: str) -> set[str]:
        """The ids of traces and of tasks that begin with this text."""
        traces = self._ids()
        found = {trace_id for trace_id in traces if trace_id.startswith(start)}
        for chunk in chunks(traces, LOOKUP):
            for fields_ in self._matching(chunk, f"{escaped(start)}*"):
                found |= {field.decode(errors="replace").rpartition(" ")[0] for field in fields_}
        return found | self._lone.ids_with(start)

    def _ids(self) -> list[str]:
        """The ids of all traces, the newest first; at the end those that were not passed because they changed."""
        found: dict[bytes, None] = {}
        for again in (False, True):  # what changed meanwhile is now before all others
            begin, known = 0, -1
            while (not again or known < len(found)) and (
                part := self._client.redis.zrevrange(self._keys[0], begin, begin + IDS - 1)
            ):
                known = len(found)
                found.update(dict.fromkeys(part))
                begin += IDS
        return [raw.decode(errors="replace") for raw in found]

    def _matching(self, trace_ids: Sequence[str], pattern: str) -> list[set[bytes]]:
        """The fields of each trace that are of this pattern."""
        found: dict[str, set[bytes]] = {trace_id: set() for trace_id in trace_ids}
        cursors = dict.fromkeys(trace_ids, 0)
        while cursors:
            pipe = self._client.redis.pipeline(transaction=False)
            for trace_id, cursor in cursors.items():
                pipe.hscan(self._trace_key(trace_id), cursor, match=pattern, count=CHUNK)
            for trace_id, (cursor, fields_) in zip(list(cursors), pipe.execute(), strict=True):
                cursors[trace_id] = cursor
                found[trace_id] |= fields_.keys()
                if not cursor:
                    del cursors[trace_id]
        return list(found.values())

    def _trace_key(self, trace_id: str) -> str:
        return self._prefix + trace_id


def _count(value: bytes | None) -> int:
    return int(value) if value is not None and value.isdigit() and len(value) <= MAX_DIGITS else 0
