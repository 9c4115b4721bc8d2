"""The trace store: what is kept about each run of a task, and where.

A span is one run of a task, past or still to come. Each process that knows something about it adds a record. A later
record replaces an earlier one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.search import escaped
from celery_dynprio.message import MAX_TEXT, clean, moves_of, number, whole
from celery_dynprio.models import Moved
from celery_dynprio.tracing.context import Ancestor, ancestors

T = TypeVar("T")

#: Records in one call of the script: less than a millisecond of the server's time.
CHUNK: Final = 50

#: How many traces are searched for a task at a time.
LOOKUP: Final = 500

#: The rank of each state, stored before the record: of two records of one span, the one with the higher rank is kept.
#: REJECTED ranks low, because a rejected message may be delivered again.
RANKS: Final[Mapping[str, int]] = {"PENDING": 0, "STARTED": 1, "REJECTED": 1, "SUCCESS": 2, "IGNORED": 2}

#: The rank of every other state: something went wrong.
FAILED: Final = 3

#: The state of a task that is only known as an ancestor.
UNKNOWN: Final = "UNKNOWN"

#: The longest text of an exception (characters).
MAX_ERROR: Final = 500


class SpanRecord(NamedTuple):
    """What is known about one run of a task. A tuple, because it is quick to make, and each task needs one."""

    trace_id: str
    #: The run's name in the store, the same in all processes: the span id in its message.
    key: str
    task_id: str
    task_name: str
    #: Celery's state: PENDING (published by a task), STARTED, SUCCESS, FAILURE, RETRY, REVOKED, REJECTED or IGNORED;
    #: UNKNOWN for a task that is only known as an ancestor.
    state: str
    #: The ids in its log lines; they may come from OpenTelemetry.
    span_id: str = ""
    parent_span_id: str = ""
    #: The id of the task that published it; "" at the root.
    parent_task_id: str = ""
    queue: str = ""
    host: str = ""
    #: 1 for the first try.
    attempt: int = 1
    #: Unix seconds; None if unknown, as in all fields below.
    published: float | None = None
    started: float | None = None
    #: The level at which it was published, and the one from which a worker took it.
    level_at_publish: int | None = None
    level: int | None = None
    #: Seconds.
    wait: float | None = None
    ran: float | None = None
    #: Type and text of the exception in one line.
    error: str = ""
    #: The last moves while it waited.
    moves: Sequence[Moved] = ()
    #: Only of failures: the tasks that led here, the root first, because their own records may be lost.
    lineage: Sequence[Ancestor] = ()

    def to_json(self) -> str:
        """Return a JSON array of all fields, in this order, but for those in the names of its hash and hash field."""
        if self.moves or self.lineage:
            return _encode([*self[_NAMED:-2], self.moves, [each.row() for each in self.lineage]])
        return _encode(self[_NAMED:-2])

    @classmethod
    def from_json(cls, trace_id: str, field: str, text: str | bytes) -> SpanRecord | None:
        """Read the result of :meth:`to_json`; None if it is malformed. Malformed values count as unknown."""
        task_id, _, key = map(clean, field.rpartition(" "))
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(row, list):
            return None
        found = dict(zip(_ROW, row, strict=False))
        known: dict[str, Any] = {name: clean(found.get(name), longest) for name, longest in _TEXTS.items()}
        if not (trace_id and key and task_id and known["state"]):
            return None
        known |= {name: number(found.get(name)) for name in ("published", "started", "wait", "ran")}
        known |= {name: whole(found.get(name)) for name in ("level_at_publish", "level")}
        known["attempt"] = whole(found.get("attempt")) or 1
        moves, lineage = tuple(moves_of({"mv": found.get("moves")})), ancestors(found.get("lineage"))
        return cls(trace_id, key, task_id, **known, moves=moves, lineage=lineage)

    @property
    def rank(self) -> int:
        """How far the run has come, 0 to 3: see :data:`RANKS`."""
        return RANKS.get(self.state, FAILED)


_encode: Final = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps makes an encoder for each call

#: How many of a record's fields are in the names of the hash and the field that keep it, and the others.
_NAMED: Final = 3
_ROW: Final = SpanRecord._fields[_NAMED:]

_TEXTS: Final[Mapping[str, int]] = {
    **dict.fromkeys(("task_name", "state", "span_id", "parent_span_id", "parent_task_id", "queue", "host"), MAX_TEXT),
    "error": MAX_ERROR,
}


@dataclass(frozen=True, slots=True)
class Trace:
    """All that is kept about one trace."""

    trace_id: str
    #: In no order.
    spans: Sequence[SpanRecord]
    #: How many records found no room; several of them may be of the same run.
    dropped: int = 0

    def complete(self) -> list[SpanRecord]:
        """Return the spans, and one for each ancestor of a failure whose own record was lost or dropped."""
        spans, known = list(self.spans), {span.task_id for span in self.spans}
        for failed in self.spans:
            above = ""
            for each in failed.lineage:
                if each.id and each.id not in known:
                    known.add(each.id)
                    spans.append(_remembered(self.trace_id, each, above))
                above = each.id
        return spans


def _remembered(trace_id: str, task: Ancestor, parent: str) -> SpanRecord:
    return SpanRecord(
        trace_id,
        f"ancestor {task.id}",
        task.id,
        task.name,
        UNKNOWN,
        parent_task_id=parent,
        host=task.host,
        level=task.level,
        wait=task.wait,
        ran=task.ran,
    )


class SpanStore(Protocol):
    """A store of spans."""

    def add(self, records: Sequence[SpanRecord], /) -> None:
        """Store these records."""

    def read(self, trace_or_task_id: str) -> Trace | None:
        """Return the trace with this id, or the one with a task of this id; None if there is none."""


class MemorySpans:
    """Spans in this process only, without bounds: for tests."""

    def __init__(self) -> None:
        self._traces: dict[str, dict[str, SpanRecord]] = {}

    def add(self, records: Sequence[SpanRecord], /) -> None:
        """Store these records."""
        for record in records:
            spans = self._traces.setdefault(record.trace_id, {})
            known = spans.get(_field(record))
            if known is None or known.rank <= record.rank:
                spans[_field(record)] = record

    def read(self, trace_or_task_id: str) -> Trace | None:
        """Return the trace with this id, or the newest one with a task of this id; None if there is none."""
        for trace_id, spans in reversed(self._traces.items()):
            if trace_or_task_id in {trace_id, *(span.task_id for span in spans.values())}:
                return Trace(trace_id, tuple(spans.values()))
        return None

    def close(self) -> None:
        """Do nothing: there is no connection."""


class RedisSpans:
    """Spans in the broker's Redis, bounded in time and number.

    A trace is kept for ``ttl`` seconds after its last change, with at most ``spans`` spans; a tenth of them is reserved
    for failures. When all traces together have more than ``total`` spans, the oldest traces are deleted. Raises the
    errors of redis-py when the broker is away.
    """

    def __init__(self, client: RedisClient, ttl: float = 86_400.0, spans: int = 1000, total: int = 100_000) -> None:
        #: Records for which there was no room, and all records that the server has answered for.
        self.dropped = self.taken = 0
        self._client = client
        self._bounds = (ttl, min(spans, total), total)
        self._keys = [client.app_key("traces"), client.app_key("trace_sizes")]
        self._prefix = client.app_key("trace:")
        self._record = client.script("trace_record")

    def add(self, records: Sequence[SpanRecord], /) -> None:
        """Store these records; those for which there is no room are counted in ``dropped``."""
        oldest: list[str] = []
        for chunk in _chunks(records, CHUNK):
            oldest = self._call(chunk, oldest)
            self.taken += len(chunk)
        before: list[str] = []
        while oldest and oldest != before:  # what cannot be dropped comes again
            before, oldest = oldest, self._call((), oldest)

    def read(self, trace_or_task_id: str) -> Trace | None:
        """Return the trace with this id, or the newest one with a task of this id; None if there is none.

        Anything malformed in Redis is ignored.
        """
        trace_id = wanted = clean(trace_or_task_id)
        if not self._client.redis.exists(self._trace_key(trace_id)):
            found = self._trace_of(wanted)
            if found is None:
                return None
            trace_id = found
        spans: dict[bytes, SpanRecord] = {}  # a scan may give a field twice
        dropped = 0
        for field, value in self._client.redis.hscan_iter(self._trace_key(trace_id), count=CHUNK):
            record = SpanRecord.from_json(trace_id, field.decode(errors="replace"), value[1:])
            if field == b"":
                dropped = int(value) if value.isdigit() else 0
            elif record is not None:
                spans[field] = record
        return Trace(trace_id, tuple(spans.values()), dropped)

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def _call(self, records: Sequence[SpanRecord], oldest: Sequence[str]) -> list[str]:
        keys = list(self._keys)
        arguments: list[Any] = [*self._bounds, len(self._prefix.encode()), len(records)]
        for record in records:
            keys.append(self._trace_key(record.trace_id))
            arguments += (_field(record), f"{record.rank}{record.to_json()}")
        keys += map(self._trace_key, oldest)
        refused, *ids = self._record(keys=keys, args=arguments)
        self.dropped += refused
        return [trace_id.decode(errors="replace") for trace_id in ids]

    def _trace_of(self, task_id: str) -> str | None:
        """Find the newest trace with a task of this id. All traces are searched, so that no index must be kept."""
        pattern = f"{escaped(task_id)} *"
        newest: list[bytes] = self._client.redis.zrevrange(self._keys[0], 0, -1)
        for chunk in _chunks((raw.decode(errors="replace") for raw in newest), LOOKUP):
            for trace_id, found in zip(chunk, self._matching(chunk, pattern), strict=True):
                if found and trace_id == clean(trace_id):
                    return trace_id
        return None

    def ids_with(self, start: str) -> set[str]:
        """The ids of traces and of tasks that begin with this text."""
        traces = [raw.decode(errors="replace") for raw in self._client.redis.zrange(self._keys[0], 0, -1)]
        found = {trace_id for trace_id in traces if trace_id.startswith(start)}
        for chunk in _chunks(traces, LOOKUP):
            for fields_ in self._matching(chunk, f"{escaped(start)}*"):
                found |= {field.decode(errors="replace").rpartition(" ")[0] for field in fields_}
        return found

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


def _field(record: SpanRecord) -> str:
    return f"{record.task_id} {record.key}"


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
