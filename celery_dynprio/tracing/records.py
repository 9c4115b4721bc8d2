"""What is kept about each run of a task."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from celery_dynprio.message import moves_of
from celery_dynprio.models import Moved
from celery_dynprio.tracing.span import Ancestor, ancestors
from celery_dynprio.untrusted import MAX_TEXT, clean, number, whole

#: The rank of each state, stored before the record: of two records of one span, the one with the higher rank is kept.
#: REJECTED ranks low, because a rejected message may be delivered again.
RANKS: Final[Mapping[str, int]] = {"PENDING": 0, "STARTED": 1, "REJECTED": 1, "SUCCESS": 2, "IGNORED": 2}


#: The rank of every other state: something went wrong.
FAILED: Final = 3


#: The state of a run that ended well.
SUCCESS: Final = "SUCCESS"


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
        return _checked(trace_id, key, task_id, dict(zip(_ROW, row, strict=False)))

    @property
    def field(self) -> str:
        """The name of the run among those of its trace: the task's id, a blank, and the key."""
        return f"{self.task_id} {self.key}"

    @property
    def rank(self) -> int:
        """How far the run has come, 0 to 3: see :data:`RANKS`."""
        return RANKS.get(self.state, FAILED)


class LoneRun(NamedTuple):
    """A run that needs no more than this to be known: most are such.

    It is alone in its trace and ended well at the first try, nothing was told of it before, and it has no other span id
    than the one in its message. The fields are those of a :class:`SpanRecord`, which has the rest, too.
    """

    trace_id: str
    key: str
    task_id: str
    task_name: str
    queue: str
    host: str
    published: float | None
    started: float | None
    level_at_publish: int | None
    level: int | None
    ran: float | None
    moves: Sequence[Moved] = ()

    def record(self) -> SpanRecord:
        """Return all that there is to know about it."""
        known = self._asdict()
        wait = None if self.published is None or self.started is None else max(self.started - self.published, 0.0)
        return SpanRecord(**known, state=SUCCESS, span_id=self.key, wait=wait)


def lone_to_json(runs: Sequence[LoneRun]) -> str:
    """Return a JSON array of these runs, each an array of its fields."""
    return _encode_flat(runs)


def lone_from_json(text: str | bytes) -> list[SpanRecord]:
    """Read the result of :func:`lone_to_json`; malformed runs are left out, malformed values count as unknown."""
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError):
        return []
    found = (_lone(row) for row in rows if isinstance(row, list)) if isinstance(rows, list) else ()
    return [record for record in found if record is not None]


def _lone(row: Sequence[object]) -> SpanRecord | None:
    found: dict[str, Any] = dict(zip(LoneRun._fields, row, strict=False))
    trace_id, key, task_id = (clean(found.get(name)) for name in SpanRecord._fields[:_NAMED])
    checked = _checked(trace_id, key, task_id, {**found, "state": SUCCESS})
    if checked is None:
        return None
    return LoneRun(*(getattr(checked, name) for name in LoneRun._fields)).record()


def _checked(trace_id: str, key: str, task_id: str, found: Mapping[str, Any]) -> SpanRecord | None:
    known: dict[str, Any] = {name: clean(found.get(name), longest) for name, longest in _TEXTS.items()}
    if not (trace_id and key and task_id and known["state"]):
        return None
    known |= {name: number(found.get(name)) for name in ("published", "started", "wait", "ran")}
    known |= {name: whole(found.get(name)) for name in ("level_at_publish", "level")}
    known["attempt"] = whole(found.get("attempt")) or 1
    moves, lineage = tuple(moves_of({"mv": found.get("moves")})), ancestors(found.get("lineage"))
    return SpanRecord(trace_id, key, task_id, **known, moves=moves, lineage=lineage)


_encode: Final = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps makes an encoder for each call


_encode_flat: Final = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode  # a third quicker


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
