"""What is known of the front: the messages in the lists of the levels, those that run next."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from celery_dynprio.brokers.redis.reading import Entry, Reader
from celery_dynprio.message import TOO_LARGE
from celery_dynprio.models import PendingTask, Place

#: Of a list that is longer than twice this only so many messages are read: what is deeper, seen from both ends, would
#: block the server for too long when it is moved. A front of the default window is never so deep.
REACH: Final = 6_000

#: Seconds for which a level is not read again, a byte of the large messages in it: to see that a message is too large
#: takes the broker about 1 ms a megabyte, and all of these together no more than a twentieth of its time.
LARGE_PAUSE: Final = 20e-9

#: Where a task is that was not found. An empty message is in no list: the script answers "gone".
NOWHERE: Final = (b"", 1)


class _Dear(NamedTuple):
    """What was read of a level with messages that are too large: seeing that they are takes the broker long."""

    #: When it is read again (``time.monotonic``).
    until: float
    entries: Sequence[tuple[int, Entry]]
    #: What was moved away since.
    gone: set[bytes]


class Front:
    """The tasks in the ``lists`` of one queue's levels, as they were read last and moved since.

    Of a front that is far too deep, twice the ``window`` (messages) is read, the next to run first. ``parse`` reads a
    message as :func:`celery_dynprio.message.parse`.
    """

    def __init__(
        self, reader: Reader, lists: Sequence[str], window: int, parse: Callable[[bytes, float], PendingTask | str]
    ) -> None:
        self._reader = reader
        self._lists = lists
        self._room = 2 * window
        self._reach = max(REACH, window * 6 // 10)
        self._parse = parse
        self._parsed: dict[bytes, PendingTask | str] = {}
        #: By the name of a message (``PendingTask.ref``): the message, and where in its list it is, as move.lua counts.
        self.places: dict[str, tuple[bytes, int]] = {}
        #: What was read of each level, until it is asked how many of these messages have which size.
        self._sizes: list[Sequence[tuple[int, Entry]] | Counter[int]] = [()] * len(lists)
        #: Levels that had messages which are too large to be moved.
        self._dear: dict[Place, _Dear] = {}

    def read(self, depths: Sequence[int], now: float) -> tuple[tuple[tuple[PendingTask, ...], ...], Counter[str]]:
        """Read levels that are so deep; return the tasks of each, and why how many other messages stay there.

        Messages seen before are not parsed again. Of two with one id the second is left where it is.
        """
        parsed: dict[bytes, PendingTask | str] = {}
        foreign = Counter[str]()
        self.places = {}
        levels, room = [], self._room
        for level, depth in enumerate(depths):
            wanted = min(depth, room) if depth <= 2 * self._reach else min(self._reach, room)
            entries = self._level(level, depth, wanted)
            self._sizes[level] = entries
            levels.append(tuple(self._tasks(entries, parsed, foreign, now)))
            room -= wanted
        self._parsed = parsed
        return tuple(levels), foreign

    def _level(self, level: Place, depth: int, wanted: int) -> Sequence[tuple[int, Entry]]:
        """The ``wanted`` messages of a level that run next, the last first; what was read before if that is dear."""
        seen = self._dear.get(level)
        if seen is not None and time.monotonic() < seen.until:
            return [(where, raw) for where, raw in seen.entries if raw not in seen.gone]
        before = self._reader.large
        known = () if seen else self._parsed
        entries = list(self._reader.tail(self._lists[level], depth, wanted, known))
        large = self._reader.large - before
        if large:
            self._dear[level] = _Dear(time.monotonic() + LARGE_PAUSE * large, entries, set())
        else:
            self._dear.pop(level, None)
        return entries

    def _tasks(
        self,
        entries: Sequence[tuple[int, Entry]],
        parsed: dict[bytes, PendingTask | str],
        foreign: Counter[str],
        now: float,
    ) -> Iterator[PendingTask]:
        """The tasks that can be moved, the next to run first; the others are counted."""
        known, places = self._parsed.get, self.places
        for where, raw in reversed(entries):
            if isinstance(raw, int):
                foreign[TOO_LARGE] += 1
                continue
            if raw in parsed:  # pushes from elsewhere shifted the list between two chunks
                continue
            entry = known(raw) or self._parse(raw, now)
            parsed[raw] = entry
            if isinstance(entry, PendingTask) and entry.id not in places:
                places[entry.id] = raw, where
                yield entry
            else:
                foreign[entry if isinstance(entry, str) else "duplicate id"] += 1

    def place(self, task: PendingTask, raw: bytes, where: int) -> None:
        """Note where the message of a task is."""
        self.places[task.ref] = raw, where

    def remove(self, task: PendingTask, level: Place, raw: bytes) -> None:
        """Note that the message of a task left this level."""
        self.places.pop(task.ref, None)
        if level in self._dear:
            self._dear[level].gone.add(raw)

    def remember(self, raw: bytes, entry: PendingTask | str) -> None:
        """Note how a message reads, so that the next read does not parse it."""
        self._parsed[raw] = entry

    def share(self, level: Place, size: int) -> float:
        """Return the share of a level's messages that have so many bytes."""
        sizes = self._sizes[level]
        if not isinstance(sizes, Counter):
            sizes = self._sizes[level] = Counter(raw if isinstance(raw, int) else len(raw) for _, raw in sizes)
        return sizes[size] / max(sizes.total(), 1)

    def clear(self) -> None:
        """Forget all: somebody else may have moved any of them meanwhile."""
        self._parsed, self.places = {}, {}
        self._dear.clear()
        self._sizes = [()] * len(self._lists)
