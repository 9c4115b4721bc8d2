"""Celery messages as the broker holds them, and the ``dynprio`` header. No network.

A message in Redis is the JSON that kombu wrote: ``body`` (not decoded here), ``headers`` (Celery's task protocol 2;
``protocol1`` reads the other) and ``properties``. Nothing in it is trusted: whatever is not as Celery writes it makes
the message *foreign*, and a foreign message stays where it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from celery_dynprio import protocol1
from celery_dynprio.durations import seconds
from celery_dynprio.levels import Scale
from celery_dynprio.models import CANCELLED, Moved, PendingTask, Place
from celery_dynprio.untrusted import clean, number, text_of

#: The message header that carries what the policy needs; a JSON object, each of its keys optional:
#: ``at`` published (Unix seconds), ``first`` since when a retry has waited (see :func:`waiting_since`), ``w`` weight (0
#: to 10), ``due`` deadline (Unix seconds), ``key`` fairness key, ``n`` dependents, ``pin`` the level that an explicit
#: priority fixed, ``mv`` the first move and the last ones, each a list of what is in
#: :class:`~celery_dynprio.models.Moved`.
HEADER: Final = "dynprio"

#: The options of tasks and calls: what a person writes in such a header, as Django's beat can store headers only.
OPTIONS: Final = frozenset({"deadline", "key", "weight"})
_FIELDS: Final = frozenset({"at", "due", "first", "mv", "n", "pin", "w"})

#: Larger messages (bytes) are left where they are: moving one would block the broker for longer than a tick may.
MAX_BYTES: Final = 1_000_000

#: So much (bytes) may our own writing add: a message that was moved once can be moved again. No read takes more.
ROOM: Final = 20_000
MOST_BYTES: Final = MAX_BYTES + ROOM

#: Why such a message is left where it is.
TOO_LARGE: Final = "too large"

#: Business importance runs from 0 to this.
MAX_WEIGHT: Final = 10.0

#: The longest fairness key and task id (characters) that are honoured.
MAX_KEY: Final = 200
MAX_ID: Final = 255

#: How many moves a message remembers, and the longest reason (characters).
MAX_MOVES: Final = 8
MAX_REASON: Final = 40

#: AMQP and kombu know ten priorities.
MAX_LEVELS: Final = 10

#: Where our header keeps the moves.
MOVES: Final = "mv"
_MOVED: Final = b'"mv"'

#: More dependents than this are not told apart.
MAX_DEPENDENTS: Final = 1_000_000


def parse(
    raw: bytes, seen_at: float, scale: Scale, default_priority: int | None = None, size: int | None = None
) -> PendingTask | str:
    """Read one message; return the task, or the reason (a short text) why it is left where it is.

    ``seen_at`` (Unix seconds) stands in for the time of publishing in messages that do not carry it; ``scale`` tells
    the broker's numbers of the levels, and ``default_priority`` is the app's ``task_default_priority``: a producer
    without the add-on sends it with each task, so it pins none. ``size`` (bytes) is that of the message if ``raw``
    lacks its body.
    """
    size = size or len(raw)
    if size > MAX_BYTES and not (size <= MOST_BYTES and _MOVED in raw):
        return TOO_LARGE
    try:
        message = decoded(raw)
    except (ValueError, RecursionError):
        return "not JSON"
    if not isinstance(message, dict):
        return "not a message"
    headers, properties = message.get("headers"), message.get("properties")
    if not isinstance(headers, dict) or not isinstance(properties, dict):
        return "not a message"
    fields = headers.get(HEADER)
    if protocol1.is_protocol_1(headers):
        about = protocol1.read(message, fields)
        if isinstance(about, str):
            return about
        headers = {**headers, **about}
    pin = _foreign_pin(properties.get("priority"), scale, default_priority) if fields is None else None
    return _task(headers, fields, pin, seen_at, len(scale.numbers))


_raw_decode: Final = json.JSONDecoder().raw_decode


def decoded(raw: bytes) -> Any:
    """Return what ``json.loads`` does, in half the time for a message as kombu writes it; raise what that raises."""
    if raw.startswith(b'{"'):  # so it can only be UTF-8
        try:
            text = raw.decode()
            value, end = _raw_decode(text)
        except ValueError:
            return json.loads(raw)
        if end == len(text):
            return value
    return json.loads(raw)


def _task(
    headers: Mapping[str, Any], fields: Any, foreign_pin: Place | None, seen_at: float, levels: int
) -> PendingTask | str:
    task_id: Any = headers.get("id")
    name: Any = headers.get("task")
    if not text_of(task_id, MAX_ID):
        return "no id"
    if not text_of(name, MAX_ID):
        return "no task name"
    scheduled = headers.get("eta") is not None
    if not isinstance(fields, dict):
        return PendingTask(task_id, name, seen_at, pinned=foreign_pin, scheduled=scheduled)
    if says_options(fields):
        fields = _of_options(fields, seen_at)
    return from_header(task_id, name, fields, seen_at, levels, scheduled=scheduled)


def says_options(fields: object) -> bool:
    """Whether a ``dynprio`` header is what a person wrote, with the names of options, and not what a router wrote."""
    return isinstance(fields, Mapping) and _FIELDS.isdisjoint(fields) and not OPTIONS.isdisjoint(fields)


def _of_options(fields: Mapping[str, Any], published: float) -> dict[str, Any]:
    """What a router would have made of a header that :func:`says_options`."""
    deadline = seconds(fields.get("deadline"))
    due = None if deadline is None else max(published + deadline, 0.0)
    given = {"at": published, "w": fields.get("weight"), "due": due, "key": fields.get("key")}
    return {field: value for field, value in given.items() if value is not None}


#: Few names and keys are those of very many tasks: without this, each task takes half as much memory again. Not
#: sys.intern: on Python 3.12 what it is given may live for ever, and names and keys are made up by others.
_shared: Final = lru_cache(10_000)(str)


def from_header(
    task_id: str, name: str, fields: Mapping[str, Any], seen_at: float, levels: int, *, scheduled: bool = False
) -> PendingTask:
    """Build the task from its ``dynprio`` header; a field that is not as it should be counts as absent."""
    key, dependents, pin = text_of(fields.get("key"), MAX_KEY), fields.get("n"), fields.get("pin")
    first = waiting_since(fields)
    return PendingTask(
        task_id,
        _shared(name),
        number(fields.get("at"), seen_at) if first is None else first,
        min(number(fields.get("w"), 1.0), MAX_WEIGHT),
        number(fields.get("due")),
        _shared(key) if key else None,
        min(dependents, MAX_DEPENDENTS) if type(dependents) is int and dependents > 0 else 0,
        pin if type(pin) is int and 0 <= pin < levels else None,
        scheduled or first is not None,
    )


def waiting_since(fields: Mapping[str, Any]) -> float | None:
    """Since when a retry has waited (Unix seconds), its runs included and pauses left out; None if this is no retry."""
    since: float | None = number(fields.get("first"))
    return since


def changed(task: PendingTask, changes: Mapping[str, Any] | None, levels: int) -> PendingTask:
    """The task as it reads when fields of its header are changed, as :func:`rewrite` does."""
    if not changes:
        return task
    header = {"w": task.weight, "due": task.deadline, "key": task.key, "n": task.dependents, "pin": task.pinned}
    fields = {**header, **changes}
    read = from_header(task.id, task.name, fields, task.published, levels, scheduled=task.scheduled)
    return replace(read, copy=task.copy)


def rewrite(
    raw: bytes,
    priority: int | None,
    task: PendingTask,
    moved: Moved | None = None,
    changes: Mapping[str, Any] | None = None,
) -> bytes:
    """Return the same message with another kombu priority, so that kombu restores it to where it was moved.

    None leaves the priority. With ``moved`` our header remembers that move as its last; ``changes`` are fields of our
    header to be set, those that are None to be removed.
    A message that does not say when it was published is told it, and one without our header to which level its priority
    pinned it: ``task``, what :func:`parse` read, must outlive the reader.
    """
    message = decoded(raw)
    if priority is not None:
        message["properties"]["priority"] = priority
    fields = message["headers"].get(HEADER)
    if fields is None:
        pin = {} if task.pinned is None else {"pin": task.pinned}
        fields = message["headers"][HEADER] = {"at": task.published, **pin}
        if protocol1.is_protocol_1(message["headers"]):
            fields |= protocol1.noted(task.id, task.name, scheduled=task.scheduled)
    elif says_options(fields):
        fields = message["headers"][HEADER] = _of_options(fields, task.published)
    elif isinstance(fields, dict) and number(fields.get("at")) is None:
        fields["at"] = task.published
    if changes and isinstance(fields, dict):
        fields |= changes
        for field in [field for field in changes if fields[field] is None]:
            del fields[field]
    if moved is not None and isinstance(fields, dict):
        moves = moves_of(fields)
        fields[MOVES] = [
            *moves[:1],  # it tells the level at which the task was published
            *moves[1:][2 - MAX_MOVES :],
            (round(moved.at, 3), *moved[1:3], round(moved.score, 3), moved.reason),
        ]
    return _written(message, raw)


def _written(message: Mapping[str, Any], before: bytes) -> bytes:
    """The message as JSON: as kombu writes it, or if that is too large, with nothing to spare.

    Others write blanks and what is not ASCII shorter than json.dumps does.
    """
    written = json.dumps(message).encode()
    if len(written) <= max(MAX_BYTES, len(before)):
        return written
    try:
        short = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # a lone surrogate
        short = json.dumps(message, separators=(",", ":")).encode()
    return short if len(short) <= MOST_BYTES else before


def headers_of(raw: bytes | None) -> Mapping[str, Any]:
    """The headers of a message, with what protocol 1 keeps in the body instead; none of what is no message."""
    try:
        return described(json.loads(raw or b"{}"))
    except (ValueError, RecursionError):
        return {}


def described(message: object) -> Mapping[str, Any]:
    """The same of a message that is decoded already."""
    headers = message.get("headers") if isinstance(message, dict) else None
    if not isinstance(headers, dict):
        return {}
    about = protocol1.read(message, headers.get(HEADER)) if protocol1.is_protocol_1(headers) else ""
    return headers if isinstance(about, str) else {**headers, **about}


def moves_of(fields: object) -> list[Moved]:
    """The moves that a ``dynprio`` header remembers, the last at the end; what is not as it should be is left out."""
    rows = fields.get(MOVES) if isinstance(fields, dict) else None
    if not isinstance(rows, list):
        return []
    moves = []
    for row in rows[-MAX_MOVES:]:
        if not isinstance(row, list) or len(row) != len(Moved._fields):
            continue
        at, source, target, score, reason = row
        at, score = number(at), number(score)
        if at is not None and score is not None and _is_place(source) and _is_place(target):
            moves.append(Moved(at, source, target, score, clean(reason, MAX_REASON)))
    return moves


def _is_place(place: object) -> bool:
    return type(place) is int and CANCELLED <= place < MAX_LEVELS


def _foreign_pin(priority: object, scale: Scale, default: int | None) -> Place | None:
    # kombu writes priority 0 when none was given, so only another number tells that somebody chose it.
    chosen = type(priority) is int and priority > 0 and priority != default
    return scale.level_of(priority) if chosen else None  # type: ignore[arg-type]
