"""Looks at all that waits in one queue, a message at a time, while workers, reprioritizers and operators go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Final, TypeAlias

from celery_dynprio.brokers.redis.reading import Reader
from celery_dynprio.brokers.redis.search import parked_task
from celery_dynprio.message import TOO_LARGE
from celery_dynprio.models import HELD, OVERFLOW, PendingTask, Place, is_level

#: How often all is looked at while others move tasks meanwhile.
MOST_LOOKS: Final = 5

#: Where more messages wait, only the front is looked at again: what is parked takes seconds.
DEEP: Final = 100_000

Seen: TypeAlias = tuple[Place, PendingTask, bytes]


class Scan(Iterator[Seen]):
    """The place, the task and the message of all that waits; none of it is kept, however much that is.

    The levels come in order, each from its last task to the next to run; then what is held, and the overflow. If others
    move tasks meanwhile, all of it comes again, so a task may come several times. ``counts`` gives the messages in
    each place, and ``moves`` how many were ever moved. ``keep`` is given a task of the front, its message, and where in
    its list that is, as move.lua counts. After about ``most`` messages a look ends: of the front that runs next.
    """

    def __init__(
        self,
        reader: Reader,
        keys: Mapping[Place, str],
        parse: Callable[[bytes], PendingTask | str],
        *,
        counts: Callable[[], Mapping[Place, int]],
        moves: Callable[[], int],
        keep: Callable[[PendingTask, bytes, int], None],
        most: int | None = None,
        looks: int = MOST_LOOKS,
    ) -> None:
        #: How often all was looked at, the look that goes on included.
        self.look = 0
        #: At most so many tasks may have been passed over, because they were moved in each look; known at the end.
        self.missed = 0
        #: Messages of the front that are left where they are, by reason.
        self.foreign: Counter[str] = Counter()
        self._reader = reader
        self._keys = keys
        self._parse = parse
        self._counts = counts
        self._moves = moves
        self._keep = keep
        #: The last message of the front that was yielded; None if the last one is parked.
        self._last: tuple[PendingTask, bytes, int] | None = None
        self._most = most
        self._looks = looks
        self._all = self._until_nothing_moves()

    def __next__(self) -> Seen:
        return next(self._all)

    def keep(self) -> None:
        """Keep the message that was returned last; a parked one is found by its name."""
        if self._last is not None:
            self._keep(*self._last)

    def _until_nothing_moves(self) -> Iterator[Seen]:
        deep = False
        while self.look < self._looks:
            self.look += 1
            before, counts = self._moves(), self._counts()
            left = sum(counts.values()) if self._most is None else self._most
            yield from self._front(counts, left)
            if not deep:
                yield from self._parked(counts, left)
            moved = abs(self._moves() - before)
            if not deep:
                self.missed = moved if self.look == 1 else min(self.missed, moved)
            if not moved:
                return
            deep = sum(counts.values()) > DEEP

    def _front(self, counts: Mapping[Place, int], left: int) -> Iterator[Seen]:
        foreign: Counter[str] = Counter()
        for level in sorted(place for place in self._keys if is_level(place)):
            wanted = min(counts[level], left)
            for where, raw in self._reader.tail(self._keys[level], counts[level], wanted):
                entry = self._parse(raw) if isinstance(raw, bytes) else TOO_LARGE
                if isinstance(entry, PendingTask) and isinstance(raw, bytes):
                    self._last = entry, raw, where
                    yield level, entry, raw
                elif isinstance(entry, str):
                    foreign[entry] += 1
            left -= wanted
        self.foreign = foreign

    def _parked(self, counts: Mapping[Place, int], left: int) -> Iterator[Seen]:
        self._last = None
        left -= sum(count for place, count in counts.items() if is_level(place))
        for place in (HELD, OVERFLOW):
            found = parked(self._reader, self._keys[place], self._parse)
            for entry, raw in found if self._most is None else islice(found, max(left, 0)):
                yield place, entry, raw
            left -= counts[place]


def parked(
    reader: Reader, key: str, parse: Callable[[bytes], PendingTask | str]
) -> Iterator[tuple[PendingTask, bytes]]:
    """The tasks in the hash of a parked place, each with its message."""
    for field, raw in reader.parked(key):
        entry = parked_task(field, parse(raw))
        if entry is not None:
            yield entry, raw
