"""One level that is being read: a question to the broker, its news, the next question if there is more."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from celery_dynprio.brokers.redis.mirror import Item, Mirror
from celery_dynprio.brokers.redis.news import ANCHOR, MORE, News, Question
from celery_dynprio.brokers.redis.stubs import Entry, matches, size_of
from celery_dynprio.message import MOST_BYTES

#: Seconds for which a level is not read again, a byte of the messages that were looked at in it and are too large: to
#: see that they are takes the broker about 1 ms a megabyte, and all of these together no more than a twentieth of its
#: time.
LARGE_PAUSE: Final = 20e-9


class Look:
    """Reads the level whose list is ``key``, from the index ``start`` on: what is new if that is the head, or else all.

    ``offset`` is where, behind the anchor, to compare a slice of what is known; None for no slice.
    """

    def __init__(self, mirror: Mirror, key: str, start: int, offset: int | None) -> None:
        self.mirror = mirror
        #: What left the level since it was read.
        self.left: Sequence[Item] = ()
        #: What came.
        self.came: Sequence[Item] = ()
        #: Until when (``time.monotonic``) it is not read again.
        self.pause_until = 0.0
        self._key = key
        self._start = start
        self._at = start
        self._known = bool(mirror.items) and not mirror.stale and not start
        self._offset = offset
        self._found: list[Entry] = []
        self._heavy = 0
        self._calls = 0

    def question(self) -> Question:
        """What to ask next."""
        if not self._known:
            return Question(self._key, self._at)
        if self._offset is None:
            return Question(self._key, self._at, self.mirror.anchor)
        return Question(self._key, self._at, self.mirror.anchor, self._offset, self.mirror.slice_at(self._offset))

    def forget(self) -> None:
        """Read all of it: what is known cannot be told from what is not."""
        self._known = False
        self._at = self._start
        self._found = []

    def take(self, news: News, make: Callable[[Entry], Item]) -> bool:
        """Take in what the broker answered; return whether the level is read."""
        self._calls += 1
        self._found = joined(self._found, news.entries)
        self._at += news.looked
        self._heavy += sum(size for size in map(size_of, news.entries) if size > MOST_BYTES)
        if news.state == MORE:
            return False
        if news.state == ANCHOR:
            popped = self.mirror.popped(news, self._at)
            if popped is None or not self.mirror.agrees(news, self._offset or 0):
                self.forget()
                return False
            self.came = [make(entry) for entry in self._found]
            self.left = self.mirror.advance(popped, self.came)
            self._heavy += self._looked_at_ends(news)
        else:
            self.left = self.mirror.items
            self.came = [make(entry) for entry in reversed(self._found)]
            self.mirror.replace(self.came)
        self.pause_until = time.monotonic() + LARGE_PAUSE * self._heavy if self._heavy else 0.0
        if news.whole is not None:
            self._check(news.whole)
        return True

    def _looked_at_ends(self, news: News) -> int:
        items = self.mirror.items
        ends = [*items[: news.tail], items[len(items) - 1 - len(self.came)]]
        return sum(size for size in (size_of(item.entry) for item in ends) if size > MOST_BYTES)

    def _check(self, whole: Sequence[bytes]) -> None:
        items = self.mirror.items
        same = all(matches(item.entry, raw) for item, raw in zip(items, reversed(whole), strict=False))
        all_of_it = self._calls > 1 or self._start or len(items) == len(whole)
        if not same or len(items) > len(whole) or not all_of_it:
            raise AssertionError(f"list {self._key!r}: {len(items)} messages are known, {len(whole)} are there")


def joined(found: list[Entry], more: Sequence[Entry]) -> list[Entry]:
    """Two parts of a list, the second read later: what was pushed meanwhile made it begin with the end of the first."""
    if not found or not more:
        return [*found, *more]
    for start in range(len(found)):
        overlap = min(len(found) - start, len(more))
        if found[start] == more[0] and found[start : start + overlap] == more[:overlap]:
            return [*found, *more[overlap:]]
    return [*found, *more]
