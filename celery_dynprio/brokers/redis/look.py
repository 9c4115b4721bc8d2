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


#: So often is a level read from its beginning again because others took messages out of it meanwhile.
AGAIN: Final = 3

#: A next part of a list begins with the last message of the one before, unless that is larger (bytes).
REPEATED: Final = 100_000


class Look:
    """Reads the level whose list is ``key``, from the index ``start`` on: what is new if that is the head, or else all.

    ``offset`` is where, behind the anchor, to compare a part of what is known; None for no part.
    """

    def __init__(self, mirror: Mirror, key: str, start: int, offset: int | None) -> None:
        self.mirror = mirror
        #: What left the level since it was read.
        self.left: Sequence[Item] = ()
        #: What came.
        self.came: Sequence[Item] = ()
        #: How many messages, from the newest on, need no more comparison in this round: they are new, or were compared.
        #: None if no part of this level was compared.
        self.compared: int | None = None
        #: Until when (``time.monotonic``) it is not read again.
        self.pause_until = 0.0
        self._key = key
        self._stretch = Stretch(start)
        #: Whether only what is new is read.
        self.known = bool(mirror.items) and not mirror.stale and not start
        self._offset = offset
        self._heavy = 0

    def question(self) -> Question:
        """What to ask next."""
        begin = self._stretch.begin
        if not self.known:
            return Question(self._key, begin)
        if self._offset is None:
            return Question(self._key, begin, self.mirror.anchor)
        return Question(self._key, begin, self.mirror.anchor, self._offset, self.mirror.slice_at(self._offset))

    def forget(self) -> None:
        """Read all of it: what is known cannot be told from what is not."""
        self.known = False
        self._stretch.restart()

    def take(self, news: News, make: Callable[[Entry], Item]) -> bool:
        """Take in what the broker answered; return whether the level is read."""
        self._heavy += sum(size for size in map(size_of, news.entries) if size > MOST_BYTES)
        if not self._stretch.add(news):
            self.forget()
            return False
        if news.state == MORE:
            return False
        done = self._follow(news, make) if news.state == ANCHOR else self._replace(make)
        if done:
            self.pause_until = time.monotonic() + LARGE_PAUSE * self._heavy if self._heavy else 0.0
            if news.whole is not None and self._stretch.at_once:
                self._check(news.whole)
        else:
            self.forget()
        return done

    def _follow(self, news: News, make: Callable[[Entry], Item]) -> bool:
        popped = self.mirror.popped(news, self._stretch.at)
        if popped is None or not self.mirror.agrees(news, self._offset or 0):
            return False
        ends = [*self.mirror.items[popped : popped + news.tail], self.mirror.items[-1]]
        self._heavy += sum(size for size in (size_of(item.entry) for item in ends) if size > MOST_BYTES)
        self.came = [make(entry) for entry in self._stretch.found]
        self.left = self.mirror.advance(popped, self.came)
        if self._offset is not None:
            self.compared = len(self.came) + self._offset + news.part
        return True

    def _replace(self, make: Callable[[Entry], Item]) -> bool:
        self.left = self.mirror.items
        self.came = [make(entry) for entry in reversed(self._stretch.found)]
        self.mirror.replace(self.came, self._stretch.start)
        self.mirror.stale = self._stretch.torn
        return True

    def _check(self, whole: Sequence[bytes]) -> None:
        items = self.mirror.items
        if len(items) != len(whole) or not all(map(matches, (item.entry for item in items), reversed(whole))):
            raise AssertionError(f"list {self._key!r}: {len(items)} messages are known, which are not the {len(whole)}")


class Stretch:
    """Messages in a row, from an index of a list on, that are read in parts while others go on."""

    def __init__(self, start: int) -> None:
        self.found: list[Entry] = []
        #: The index to begin the next part at, and the one behind what was found, as of the last part.
        self.begin = self.at = start
        #: Whether it was read in one part, from the head on.
        self.at_once = not start
        #: Whether some messages in it may be missing.
        self.torn = False
        self.start = start
        self._again = 0

    def restart(self) -> None:
        """Begin anew."""
        self.found = []
        self.begin = self.at = self.start

    def add(self, news: News) -> bool:
        """Add a part; return False if it is not known to continue what was found.

        What was pushed meanwhile makes it begin with the end of that; otherwise others took messages out.
        """
        found = joined(self.found, news.entries)
        if found is None and self.begin < self.at and news.looked:
            self.torn = self._again >= AGAIN
            self._again += 1
            if not self.torn:
                return False
        self.at_once &= not self.found
        self.found = [*self.found, *news.entries] if found is None else found
        self.at = self.begin + news.looked
        repeats = bool(self.found) and size_of(self.found[-1]) <= REPEATED
        self.begin = self.at - 1 if repeats and news.looked > 1 else self.at
        return True


def joined(found: Sequence[Entry], more: Sequence[Entry]) -> list[Entry] | None:
    """Two parts of a list of which the second begins within the first; None if it does not."""
    if not found or not more:
        return [*found, *more]
    for start in range(len(found)):
        overlap = min(len(found) - start, len(more))
        if found[start] == more[0] and found[start : start + overlap] == more[:overlap]:
            return [*found, *more[overlap:]]
    return None
