"""Looks for tasks by their ids in all places of one queue, while workers, reprioritizers and operators go on.

What is parked is found by its id. The front is searched by the server itself, piece by piece: see ``lua/find.lua``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from celery_dynprio.brokers.redis.reading import Reader, where_at
from celery_dynprio.models import COPY, HELD, OVERFLOW, PendingTask, Place, copy_after, is_level
from celery_dynprio.ports.broker import Found
from celery_dynprio.protocol1 import needles

if TYPE_CHECKING:
    from celery_dynprio.brokers.redis.client import RedisClient

#: So many tasks at most are looked for by the server.
FEW: Final = 8

#: How often all places are looked through for a task while others move tasks meanwhile.
MOST_LOOKS: Final = 10


class Sighting(NamedTuple):
    """A task that was found, and its message."""

    found: Found
    raw: bytes
    #: Where in its list it is, as move.lua counts; 0 where it is parked.
    where: int = 0


class Search:
    """Finds tasks in the ``lists`` of the levels and the ``hashes`` of the parked places of one queue.

    ``moves_key`` counts the moves that are made there; ``parse`` reads a message as :func:`~.message.parse`.
    """

    def __init__(
        self,
        client: RedisClient,
        reader: Reader,
        *,
        lists: Sequence[str],
        hashes: Mapping[Place, str],
        moves_key: str,
        parse: Callable[[bytes, float], PendingTask | str],
    ) -> None:
        self._redis = client.redis
        self._reader = reader
        self._lists = lists
        self._hashes = hashes
        self._moves_key = moves_key
        self._parse = parse

    def find(self, ids: Collection[str], now: float) -> dict[str, list[Sighting]]:
        """Look for all messages with these ids, the front first.

        Again, as long as others move tasks meanwhile and an id is missing, or few are looked for: then a second message
        with one of them may be missing as well.
        """
        found: dict[str, list[Sighting]] = {}
        few = len(ids) <= FEW
        for _ in range(MOST_LOOKS):
            before = self._redis.mget(self._moves_key)  # which refuses no type
            wanted = list(ids) if few else [task_id for task_id in ids if task_id not in found]
            sightings = [*self.in_front(wanted, now), *self._parked(wanted, now)]
            still = before == self._redis.mget(self._moves_key)
            found |= _by_id(sightings, still=still)
            if still or (not few and len(found) == len(set(ids))):
                break
        return found

    def ids_with(self, start: str, now: float) -> set[str]:
        """The ids that begin with this text, of all that waits."""
        texts = [_as_json(start), *needles(_as_json(start))]
        found = [raw for key in self._lists for part in self._reader.search(key, texts) for _, raw in part]
        raws = [raw for raw in found if isinstance(raw, bytes)]
        for place in (HELD, OVERFLOW):
            raws += [raw for _, raw in self._reader.parked(self._hashes[place], match=f"{escaped(start)}*")]
        entries = [self._parse(raw, now) for raw in raws]
        return {entry.id for entry in entries if isinstance(entry, PendingTask) and entry.id.startswith(start)}

    def _parked(self, ids: Sequence[str], now: float) -> Iterator[Sighting]:
        for place in (HELD, OVERFLOW):
            key = self._hashes[place]
            for task_id, raw in self._reader.fetch(key, ids):
                entry = None if raw is None else parked_task(task_id.encode(), self._parse(raw, now))
                if raw is not None and entry is not None:
                    yield Sighting(Found(entry, place, 0), raw)
        wanted = frozenset(ids)
        # The overflow has no second message with one id: see move.lua.
        for field, raw in self._reader.parked(self._hashes[HELD], match=f"*{COPY}*"):
            entry = parked_task(field, self._parse(raw, now))
            if entry is not None and entry.copy and entry.id in wanted:
                yield Sighting(Found(entry, HELD, 0), raw)

    def in_front(self, ids: Sequence[str], now: float) -> list[Sighting]:
        """Look in the front only, for all messages with these ids, the next to run first."""
        # Many ids are quicker found here.
        found = self._with_any_text(ids, list(map(_as_json, ids)) if len(ids) <= FEW else [""], now)
        missing = set(ids) - {sighting.found.task.id for sighting in found}
        if missing and len(ids) <= FEW:
            # Protocol 1 has them in the body, which is base64.
            found += self._with_any_text(missing, [each for text in missing for each in needles(_as_json(text))], now)
        return found

    def _with_any_text(self, ids: Collection[str], texts: Sequence[str], now: float) -> list[Sighting]:
        """The same; each of these messages has one of these texts in it."""
        wanted = frozenset(ids)  # a filter may mean ten thousand
        found: list[Sighting] = []
        before = 0
        for level, key in enumerate(self._lists if ids else ()):
            depth = self._redis.llen(key)
            here: list[Sighting] = []
            seen: set[bytes] = set()  # in earlier parts: what comes again in a later one is the same message
            for part in self._reader.search(key, texts):
                seen.update(sighting.raw for sighting in here[len(seen) :])
                for index, raw in part:
                    entry = None if isinstance(raw, int) or raw in seen else self._parse(raw, now)
                    if not isinstance(raw, int) and isinstance(entry, PendingTask) and entry.id in wanted:
                        ahead = max(before + depth - 1 - index, 0)
                        here.append(Sighting(Found(entry, level, ahead), raw, where_at(index, depth)))
            found += reversed(here)
            before += depth
        return found


def _as_json(task_id: str) -> str:
    """How an id begins in a message: JSON escapes what is not ASCII."""
    return json.dumps(task_id)[1:-1].partition("\\")[0]


def escaped(text: str) -> str:
    """A text in a pattern of Redis that matches just that."""
    return "".join(f"\\{character}" if character in "*?[]\\^" else character for character in text)


def parked_task(field: bytes, entry: PendingTask | str) -> PendingTask | None:
    """The task that is parked in this field of a hash as what was read there; None if that is none, or another."""
    if not isinstance(entry, PendingTask):
        return None
    task_id = entry.id.encode()
    if field == task_id:
        return entry
    return replace(entry, copy=field[len(task_id) :].decode()) if field.startswith(task_id + COPY.encode()) else None


def _by_id(sightings: Iterable[Sighting], *, still: bool) -> dict[str, list[Sighting]]:
    """The messages with each id, those in the front told apart by numbers.

    If something was moved meanwhile (not ``still``), a message that was seen twice counts where it was seen last.
    """
    found: dict[str, list[Sighting]] = {}
    for sighting in sightings:
        same = found.setdefault(sighting.found.task.id, [])
        if not still and same:
            tag = _tag(sighting.raw)
            same[:] = [each for each in same if tag is None or _tag(each.raw) != tag]
        same.append(sighting)
    return {task_id: _numbered(same) for task_id, same in found.items()}


def _numbered(same: Sequence[Sighting]) -> list[Sighting]:
    return [
        sighting
        if not is_level(sighting.found.place) or not number
        else sighting._replace(
            found=sighting.found._replace(task=replace(sighting.found.task, copy=copy_after(number)))
        )
        for number, sighting in enumerate(same)
    ]


def _tag(raw: bytes) -> Any:
    """What kombu tells messages apart by; None if this one has none."""
    properties = json.loads(raw).get("properties")
    return properties.get("delivery_tag") if isinstance(properties, dict) else None
