"""Looks for tasks by their ids in all places of one queue, while workers, reprioritizers and operators go on.

What is parked is found by its id. The front is searched by the server itself, piece by piece: see ``lua/find.lua``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from celery_dynprio.backlogs.base import Found
from celery_dynprio.models import HELD, OVERFLOW, PendingTask, Place

if TYPE_CHECKING:
    from celery_dynprio.backlogs.redis_client import RedisClient

#: One read asks for at most so many messages, and for fewer where they are large.
CHUNK: Final = 200
CHUNK_BYTES: Final = 500_000

#: Messages that the first look into a list takes in; later ones take in as many as make up CHUNK_BYTES.
FIRST_LOOK: Final = 50

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
        lists: Sequence[str],
        hashes: Mapping[Place, str],
        moves_key: str,
        parse: Callable[[bytes, float], PendingTask | str],
    ) -> None:
        self._redis = client.redis
        self._find = client.script("find")
        self._lists = lists
        self._hashes = hashes
        self._moves_key = moves_key
        self._parse = parse

    def find(self, ids: Collection[str], now: float) -> dict[str, Sighting]:
        """Look for these tasks; again, as long as some are missing and others move tasks meanwhile."""
        found: dict[str, Sighting] = {}
        for _ in range(MOST_LOOKS):
            before = self._redis.get(self._moves_key)
            found |= self._parked([task_id for task_id in ids if task_id not in found], now)
            missing = [task_id for task_id in ids if task_id not in found]
            if missing:
                found |= self.in_front(missing, now)
            if len(found) == len(set(ids)) or before == self._redis.get(self._moves_key):
                break
        return found

    def _parked(self, ids: Sequence[str], now: float) -> dict[str, Sighting]:
        found: dict[str, Sighting] = {}
        for place in (HELD, OVERFLOW):
            for chunk in chunks(ids, CHUNK):
                for task_id, raw in zip(chunk, self._redis.hmget(self._hashes[place], chunk), strict=True):
                    entry = None if raw is None else self._parse(raw, now)
                    if isinstance(entry, PendingTask) and entry.id == task_id:
                        found.setdefault(task_id, Sighting(Found(entry, place, 0), raw))
        return found

    def in_front(self, ids: Sequence[str], now: float) -> dict[str, Sighting]:
        """Look in the front only; of two tasks with one id the one that is taken first counts."""
        wanted = frozenset(ids)  # a filter may mean ten thousand
        found: dict[str, Sighting] = {}
        before = 0
        for level, key in enumerate(self._lists):
            depth = self._redis.llen(key)
            for index, raw in self._with_any(key, ids):
                entry = self._parse(raw, now)
                if isinstance(entry, PendingTask) and entry.id in wanted:
                    ahead = max(before + depth - 1 - index, 0)
                    found[entry.id] = Sighting(Found(entry, level, ahead), raw, where_at(index, depth))
            ids = [task_id for task_id in ids if task_id not in found]
            wanted = frozenset(ids)
            if not ids:
                break
            before += depth
        return found

    def _with_any(self, key: str, ids: Sequence[str]) -> Iterator[tuple[int, bytes]]:
        """The messages of a list, with their index from the head, that may be of one of these tasks."""
        start, size = 0, FIRST_LOOK
        # JSON escapes what is not ASCII, so such an id is looked for by its start. Many ids are quicker found here.
        texts = [json.dumps(task_id)[1:-1].partition("\\")[0] for task_id in ids] if len(ids) <= FEW else [""]
        while size:
            looked, length, *found = self._find(keys=[key], args=[start, start + size - 1, *texts])
            yield from zip(found[::2], found[1::2], strict=True)
            if looked < size:
                return
            start += looked
            size = max(1, min(CHUNK_BYTES // (length // looked + 1), 4 * size))


def where_at(index: int, depth: int) -> int:
    """Where to look for the message at this index, from the head (0), of a list so deep: as move.lua counts."""
    return index + 1 if 2 * index < depth else min(index - depth, -1)


def chunks(items: Iterable[str], size: int) -> Iterator[list[str]]:
    """Items in lists of at most ``size``."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
