"""Reads messages out of the broker's lists and hashes: so few at a time that no read takes much of its memory.

Of a message that is too large to be moved only the size is read, at its first sight too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from celery_dynprio.chunks import chunks
from celery_dynprio.message import MOST_BYTES

if TYPE_CHECKING:
    from celery_dynprio.brokers.redis.client import RedisClient

#: One read asks for at most so many messages, and for fewer where they are large.
CHUNK: Final = 200
CHUNK_BYTES: Final = 500_000

#: Messages that a first read asks for, and by how much a next one may ask for more.
FIRST: Final = 20
GROWTH: Final = 4

#: So few at a time are read as they are where none was too large yet: if the next ones are, they are few.
FEW: Final = 8

#: A message, or of one that is too large its size (bytes).
Entry: TypeAlias = "bytes | int"


class Part(NamedTuple):
    """What was found in a part of a list."""

    #: How many messages were looked at; 0 behind the end of the list.
    looked: int
    #: The bytes of these.
    size: int
    #: The index from the head, and the message.
    found: Sequence[tuple[int, Entry]]
    #: Whether the list ends there.
    ends: bool


class Pace:
    """How many messages to ask for next: few at first, then as many as make up about :data:`CHUNK_BYTES`."""

    def __init__(self, first: int = FIRST) -> None:
        self.size = first

    def learn(self, count: int, size: int) -> None:
        """Take in that ``count`` messages had ``size`` bytes."""
        fit = CHUNK_BYTES * count // (size + 1) if count else CHUNK
        self.size = max(1, min(CHUNK, GROWTH * self.size, fit))


class Reader:
    """Reads in one broker; ``beat`` is called after each read, ``largest`` (bytes) is what is read of a list at all."""

    def __init__(
        self, client: RedisClient, beat: Callable[[], object] = lambda: None, largest: int = MOST_BYTES
    ) -> None:
        self._redis = client.redis
        self._find = client.script("find")
        self._beat = beat
        self._largest = largest
        #: The bytes, so far, of messages of which no more than the size was read.
        self.large = 0

    def look(self, key: str, start: int, count: int, texts: Sequence[str] = ("",)) -> Part:
        """Look for messages with one of these texts in a part of a list, which may be shorter than was asked for."""
        arguments: list[Any] = [start, start + count - 1, self._largest, CHUNK_BYTES, *texts]
        looked, size, ends, *found = self._find(keys=[key], args=arguments)
        self._beat()
        part = Part(looked, size, list(zip(found[::2], found[1::2], strict=True)), bool(ends))
        self.large += sum(entry for _, entry in part.found if isinstance(entry, int))
        return part

    def search(self, key: str, texts: Sequence[str]) -> Iterator[Sequence[tuple[int, Entry]]]:
        """All messages of a list that have one of these texts, the newest first, in parts.

        What is pushed between two parts shifts the list: the next one begins with messages of those before it.
        """
        start, ends = 0, False
        while not ends:
            part = self.look(key, start, 10 * CHUNK, texts)
            yield part.found
            start, ends = start + part.looked, part.ends

    def tail(self, key: str, depth: int, wanted: int) -> Iterator[tuple[int, Entry]]:
        """The ``wanted`` last messages of a list so deep, from the head on, with where they are as move.lua counts.

        Reading goes towards the tail, where workers pop, and to its end: neither what they take nor what producers push
        meanwhile makes one be missed. What is moved away from before this place does. Messages that are large enough to
        be read a few at a time are read as they are, which takes the server a fifth of the time.
        """
        pace = Pace(CHUNK)
        start, plain, large, ends = depth - wanted, False, False, not wanted
        entries: Sequence[Entry]
        while not ends:
            if plain:
                raws: list[bytes] = self._redis.lrange(key, start, start + pace.size - 1)
                self._beat()
                size, ends = sum(map(len, raws)), len(raws) < pace.size
                entries = raws if size <= self._largest else self._sized(raws)
            else:
                _, size, found, ends = self.look(key, start, pace.size)
                entries = [entry for _, entry in found]
            yield from zip(_wheres(start, len(entries), depth), entries, strict=True)
            start += len(entries)
            pace.learn(len(entries), size)
            large = large or any(isinstance(entry, int) for entry in entries)
            plain = bool(entries) and pace.size <= FEW and not large

    def _sized(self, raws: Sequence[bytes]) -> list[Entry]:
        """The messages, of those that are too large only their sizes."""
        self.large += sum(len(raw) for raw in raws if len(raw) > self._largest)
        return [raw if len(raw) <= self._largest else len(raw) for raw in raws]

    def parked(self, key: str, match: str | None = None) -> Iterator[tuple[bytes, bytes]]:
        """All fields of a hash whose names match, each with its message."""
        cursor, pace = 0, Pace()
        while True:
            cursor, entries = self.scan(key, cursor, pace, match)
            yield from entries.items()
            if not cursor:
                return

    def scan(self, key: str, cursor: int, pace: Pace, match: str | None = None) -> tuple[int, dict[bytes, bytes]]:
        """Some fields of a hash, each with its message, and the cursor for the next ones; 0 at the end."""
        cursor, entries = self._redis.hscan(key, cursor, match=match, count=pace.size)
        self._beat()
        pace.learn(len(entries), sum(map(len, entries.values())))
        return cursor, entries

    def values(self, key: str) -> Iterator[bytes]:
        """All messages of a hash that is not ours, in which they may be of any size: those are read one at a time."""
        for chunk in chunks(self._redis.hkeys(key), CHUNK):
            pipe = self._redis.pipeline(transaction=False)
            for field in chunk:
                pipe.hstrlen(key, field)
            sizes = dict(zip(chunk, pipe.execute(), strict=True))
            while chunk:
                count, size = 1, sizes[chunk[0]]
                while count < len(chunk) and size + sizes[chunk[count]] <= CHUNK_BYTES:
                    size += sizes[chunk[count]]
                    count += 1
                yield from filter(None, self._redis.hmget(key, chunk[:count]))
                self._beat()
                del chunk[:count]

    def fetch(self, key: str, fields: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        """These fields of a hash, each with its message, None where there is none."""
        left, pace = iter(fields), Pace()
        while chunk := list(islice(left, pace.size)):
            raws: list[bytes | None] = self._redis.hmget(key, chunk)
            self._beat()
            yield from zip(chunk, raws, strict=True)
            pace.learn(len(raws), sum(len(raw) for raw in raws if raw))


def where_at(index: int, depth: int) -> int:
    """Where to look for the message at this index, from the head (0), of a list so deep: as move.lua counts."""
    return index + 1 if 2 * index < depth else min(index - depth, -1)


def _wheres(start: int, count: int, depth: int) -> list[int]:
    """The same of so many in a row; what was pushed while the list was read makes it longer than it was."""
    half, end = (depth + 1) // 2, start + count
    near = range(start + 1, min(end, half) + 1)
    far = range(max(start, half) - depth, min(end, depth) - depth)
    return [*near, *far, *[-1] * (count - len(near) - len(far))]
