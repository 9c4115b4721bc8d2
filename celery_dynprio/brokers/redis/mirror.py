"""What one list of the broker is known to have, and how it follows what is done there. No network.

Producers push at the head and workers pop at the tail, so what is known stays a run of the list. Whether it does is
told by its length, by its last message from the tail on that is known (the anchor), and by digests.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence

from celery_dynprio.brokers.redis.news import News
from celery_dynprio.brokers.redis.stubs import MARK, Entry, digest, mark_of, size_of
from celery_dynprio.message import MOST_BYTES
from celery_dynprio.models import PendingTask, Place

#: So many messages at most are compared in full with what is known of them, in one list at each read, or so many bytes.
SLICE = 100
SLICE_BYTES = 60_000


class Item:
    """One message of a list, and how it reads."""

    __slots__ = ("entry", "level", "task")

    def __init__(self, entry: Entry, task: PendingTask | str, level: Place) -> None:
        self.entry = entry
        #: The task, or why it is left where it is.
        self.task = task
        self.level = level


class Mirror:
    """The messages of one list from the tail, where workers pop, up to the last that was read."""

    def __init__(self) -> None:
        #: The next to run first.
        self.items: list[Item] = []
        #: Whether this changed since it was last asked.
        self.changed = True
        #: Whether all of it has to be read again.
        self.stale = False
        #: How many messages were pushed here since the last read, and how many at the head were not read.
        self.pushed = 0
        self._unread = 0
        self._gone: set[Item] = set()
        self._places: dict[Item, int] = {}
        self._left: list[int] = []

    @property
    def anchor(self) -> tuple[int, bytes]:
        """What tells the last message that is known from others."""
        return mark_of(self.items[-1].entry)

    def settle(self) -> None:
        """Take out what was removed since the last read; what was pushed is read like all that is new."""
        self.pushed = 0
        if self._gone:
            self._become([item for item in self.items if item not in self._gone])
            self._gone = set()

    def replace(self, items: Sequence[Item], unread: int = 0) -> None:
        """Note all that is in the list, the next to run first, but for so many messages at its head."""
        self._gone, self.stale, self._unread = set(), False, unread
        self._become(list(items))

    def popped(self, news: News, index: int) -> int | None:
        """How many of these messages were popped if the anchor is at this index from the head now.

        None if the list is not what that would make of it: the run from the anchor to the tail would be of another
        length, or not have these messages at its end, or in the part of it that was looked at.
        """
        known = len(self.items)
        popped = known - (news.length - index)
        if not 0 <= popped < known or not news.tail:
            return None
        if digest((item.entry for item in self.items[popped : popped + news.tail]), MARK) != news.tail_digest:
            return None
        return popped

    def agrees(self, news: News, offset: int) -> bool:
        """Whether the messages from ``offset`` behind the anchor are those that are known."""
        if not news.part:
            return True
        last = len(self.items) - 1 - offset
        part = self.items[max(last - news.part + 1, 0) : last + 1]
        return digest((item.entry for item in reversed(part)), MOST_BYTES) == news.part_digest

    def advance(self, popped: int, pushed: Sequence[Item]) -> list[Item]:
        """Take out what was popped, and note what was pushed, from the head on; return what was popped."""
        self._unread = 0
        left = self.items[:popped]
        if popped or pushed:
            self._become([*self.items[popped:], *reversed(pushed)])
        return left

    def slice_at(self, offset: int) -> int:
        """How many messages to compare from this one behind the anchor; 0 at the end."""
        size = count = 0
        for item in self.items[max(len(self.items) - offset - SLICE, 0) : len(self.items) - offset][::-1]:
            if count and size >= SLICE_BYTES:
                break
            size += size_of(item.entry)
            count += 1
        return count

    def remove(self, item: Item) -> None:
        """Note that a message was moved away."""
        if item not in self._gone and item in self._index():
            insort(self._left, self._places[item])
            self._gone.add(item)
            self.changed = True

    def where(self, item: Item) -> int:
        """Where in the list the message is, as move.lua counts."""
        place = self._index()[item]
        tail = place - bisect_left(self._left, place)
        head = self._unread + self.pushed + len(self.items) - len(self._left) - 1 - tail
        return head + 1 if head < tail else -1 - tail

    def find(self, accepts: Callable[[Item], bool], *, from_head: bool) -> Item | None:
        """Return the first message, from the tail or the head, that is accepted and was not moved away."""
        items = reversed(self.items) if from_head else iter(self.items)
        return next((item for item in items if accepts(item) and item not in self._gone), None)

    def _index(self) -> dict[Item, int]:
        if len(self._places) != len(self.items):
            self._places = {item: place for place, item in enumerate(self.items)}
        return self._places

    def _become(self, items: list[Item]) -> None:
        self.items, self.changed = items, True
        self._places, self._left = {}, []
