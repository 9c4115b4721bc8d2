"""What is known of the front: the messages in the lists of the levels, those that run next."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Final, cast

from celery_dynprio.brokers.redis.look import Look
from celery_dynprio.brokers.redis.mirror import Item, Mirror
from celery_dynprio.brokers.redis.news import ENDS, NewsReader
from celery_dynprio.brokers.redis.stubs import Entry, is_sought, matches, size_of, text_of
from celery_dynprio.models import Level, PendingTask, Place, is_level

#: Of a list that is longer than twice this only so many messages are read: what is deeper, seen from both ends, would
#: block the server for too long when it is moved. A front of the default window is never so deep.
REACH: Final = 6_000

#: Why a message is left where it is that has the id of one before it.
DUPLICATE: Final = "duplicate id"

#: Where a task is that was not found. An empty message is in no list: the script answers "gone".
NOWHERE: Final = (b"", 1)


class Front:
    """The tasks in the ``lists`` of one queue's levels, as they were read last and moved since.

    A read asks for what is new. All is read again where the broker does not have what should be there, or where others
    moved tasks meanwhile; and a part of what is known is compared each time. Of a front that is far too deep, twice the
    ``window`` (messages) is read, the next to run first. ``parse`` reads a message, of so many bytes, as
    :func:`celery_dynprio.message.parse`.
    """

    def __init__(
        self,
        news: NewsReader,
        lists: Sequence[str],
        window: int,
        parse: Callable[[bytes, float, int], PendingTask | str],
    ) -> None:
        self._news = news
        self._lists = lists
        self._room = 2 * window
        self._reach = max(REACH, window * 6 // 10)
        self._parse = parse
        self.clear()

    def clear(self) -> None:
        """Forget all: somebody else may have moved any of them meanwhile."""
        self._mirrors = [Mirror() for _ in self._lists]
        self._levels = [Level()] * len(self._lists)
        self._foreign: list[Counter[str]] = [Counter() for _ in self._lists]
        #: The first message with each id, and those that have the id of another one.
        self._by_id: dict[str, Item] = {}
        self._second: frozenset[Item] = frozenset()
        #: The ids that more than one message has.
        self._twice: frozenset[str] = frozenset()
        #: How what was moved or written here reads, until it is read again.
        self._reads: dict[Entry, PendingTask | str] = {}
        #: By the name of a task (``PendingTask.ref``) where it was found or put since the last read.
        self._placed: dict[str, tuple[Entry, int]] = {}
        self._pauses = [0.0] * len(self._lists)
        #: Levels of which a part was read, while the rest was left to the next read.
        self._begun: dict[Place, Look] = {}
        #: How many moves were made in this queue, ever when it was read last, and here since; None if it was not.
        self._moves: int | None = None
        self._own_moves = 0
        #: The level of which a part is compared next with what is known, and where behind its anchor that part begins.
        self._slice: tuple[Place, int] = (0, 0)

    def read(
        self, depths: Sequence[int], now: float, most: float = math.inf
    ) -> tuple[tuple[tuple[PendingTask, ...], ...], Counter[str]]:
        """Read levels that are so deep; return the tasks of each, and why how many other messages stay there.

        After ``most`` bytes of messages, what is not read yet is left to the next read, and of those levels nothing is
        known until then. Of two with one id the second is left where it is. What ends a read, an error of the broker
        say, ends what is known as well: some levels would be a read ahead of others, and of the ids.
        """
        self._placed = {}
        looks = self._looks(depths)
        try:
            self._begun = self._ask(looks, now, most)
        except BaseException:
            self.clear()
            raise
        for level, look in looks.items():
            self._pauses[level] = look.pause_until
        self._slice = self._next_slice(looks)
        self._reads = self._reads if self._begun else {}
        for level in self._begun:
            self._reads |= {item.entry: item.task for item in self._mirrors[level].items}
            self._drop_all(self._mirrors[level])
        self._count_ids(looks.values())
        for level, mirror in enumerate(self._mirrors):
            if mirror.changed:
                self._tell(level, mirror)
        return tuple(self._levels), sum(self._foreign, Counter[str]())

    def locate(self, ref: str) -> tuple[Entry, int]:
        """Return the message of this name that was read, found or put here, and where in its list to look for it."""
        placed = self._placed.get(ref)
        if placed is not None:
            return placed
        item = self._by_id.get(ref)
        return NOWHERE if item is None else (item.entry, self._mirrors[item.level].where(item))

    def place(self, task: PendingTask, entry: Entry, where: int) -> None:
        """Note where the message of a task is."""
        self._placed[task.ref] = entry, where

    def remove(self, task: PendingTask, level: Place, entry: Entry, where: int) -> None:
        """Note that the message of a task left this level: of equal ones the first from the end that ``where`` says.

        Of equal ones that are found by their place it may have been another one.
        """
        self._placed.pop(task.ref, None)
        self._begun.pop(level, None)  # what was read of it may have been this
        item = self._item(task, level, entry, from_head=where > 0)
        if item is not None:
            self._forget_id(item)
            self._mirrors[level].remove(item)
        if task.id in self._twice and is_sought(entry):
            self.reread(level)

    def count_move(self, target: Place) -> None:
        """Note that a move was made here, from whatever place."""
        self._own_moves += 1
        if is_level(target):
            self._mirrors[target].pushed += 1

    def reread(self, level: Place) -> None:
        """See to it that all of this level is read the next time."""
        self._mirrors[level].stale = True

    def reject(self, task: PendingTask, level: Place, entry: Entry, reason: str) -> None:
        """Note that a message is left where it is."""
        item = self._item(task, level, entry, from_head=False)
        if item is not None:
            self._forget_id(item)
            item.task = reason
            self._mirrors[level].changed = True

    def remember(self, entry: Entry, task: PendingTask) -> None:
        """Note how a message reads that is written here, so that the next read does not parse it."""
        self._reads[entry] = task

    def _item(self, task: PendingTask, level: Place, entry: Entry, *, from_head: bool) -> Item | None:
        if task.id in self._twice:
            return self._mirrors[level].find(lambda each: is_same(each.entry, entry), from_head=from_head)
        item = self._by_id.get(task.id)
        return item if item is not None and item.level == level and is_same(item.entry, entry) else None

    def _looks(self, depths: Sequence[int]) -> dict[Place, Look]:
        """What is to be read of each level, but of those that had messages too large to be looked at all the time."""
        looks = {}
        room, moment = self._room, time.monotonic()
        slice_level, offset = self._slice
        for level, (depth, mirror, key) in enumerate(zip(depths, self._mirrors, self._lists, strict=True)):
            mirror.settle()
            wanted = min(depth, room) if depth <= 2 * self._reach else min(self._reach, room)
            room -= wanted
            if depth and not wanted:
                self._drop_all(mirror)
            elif level in self._begun:
                looks[level] = self._begun[level]
            elif moment >= self._pauses[level]:
                looks[level] = Look(mirror, key, depth - wanted, offset if level == slice_level else None)
        return looks

    def _ask(self, looks: Mapping[Place, Look], now: float, most: float) -> dict[Place, Look]:
        """Ask until each of these is read, all of each if others moved tasks meanwhile; return those that are not.

        A level of which nothing but news is read is not left so.
        """
        left, begun = dict(looks), False
        expected = None if self._moves is None else self._moves + self._own_moves
        while left and (most > 0 or any(look.known for look in left.values())):
            moves, answers = self._news.ask([look.question() for look in left.values()])
            if not begun:
                begun, self._moves, self._own_moves = True, moves, 0
                if expected not in {None, moves}:
                    self._forget(looks)
                    continue
            for (level, look), news in zip(list(left.items()), answers, strict=True):
                replaced = look.mirror.items if news.state == ENDS else ()
                recalled = {item.entry: item.task for item in replaced}
                most -= sum(map(size_of, news.entries))
                if moves != self._moves:  # what others do during a read is found by the next one
                    news = news._replace(whole=None)  # noqa: PLW2901 - the same without what is for tests
                if look.take(news, partial(self._read, level=level, now=now, recalled=recalled)):
                    del left[level]
        return left

    def _forget(self, looks: Mapping[Place, Look]) -> None:
        """See to it that all of each level is read: of those that are not looked at now, the next time."""
        for level, mirror in enumerate(self._mirrors):
            if level in looks:
                looks[level].forget()
            else:
                mirror.stale = True

    def _read(self, entry: Entry, level: Place, now: float, recalled: Mapping[Entry, PendingTask | str]) -> Item:
        """The message as an item of this level; those seen before are not parsed again."""
        task = self._reads.get(entry) or recalled.get(entry) or self._parse(text_of(entry), now, size_of(entry))
        return Item(entry, task, level)

    def _next_slice(self, looks: Mapping[Place, Look]) -> tuple[Place, int]:
        """What to compare after these: the rest of the level as far as it is known, or else the next level."""
        level, _ = self._slice
        look = looks.get(level)
        if look is not None and look.compared is not None and look.compared < len(look.mirror.items):
            return level, look.compared
        return (level + 1) % len(self._lists), 0

    def _count_ids(self, looks: Iterable[Look]) -> None:
        """Keep in step which message is the first with its id; that takes a look at all if any two have the same."""
        for look in looks:
            for item in look.left:
                self._forget_id(item)
        doubles = bool(self._second)
        for look in looks:
            for item in look.came:
                if isinstance(item.task, PendingTask) and self._by_id.setdefault(item.task.id, item) is not item:
                    doubles = True
        if doubles:
            self._find_second()

    def _find_second(self) -> None:
        self._by_id = {}
        second: dict[Item, str] = {}
        for item in chain.from_iterable(mirror.items for mirror in self._mirrors):
            if isinstance(item.task, PendingTask) and self._by_id.setdefault(item.task.id, item) is not item:
                second[item] = item.task.id
        for item in second.keys() ^ self._second:
            self._mirrors[item.level].changed = True
        self._second, self._twice = frozenset(second), frozenset(second.values())

    def _forget_id(self, item: Item) -> None:
        if isinstance(item.task, PendingTask) and self._by_id.get(item.task.id) is item:
            del self._by_id[item.task.id]

    def _drop_all(self, mirror: Mirror) -> None:
        for item in mirror.items:
            self._forget_id(item)
        mirror.replace(())

    def _tell(self, level: Place, mirror: Mirror) -> None:
        """Make anew what is told of a level that changed."""
        items = [item for item in mirror.items if item not in self._second] if self._second else mirror.items
        tasks = [item.task for item in items]
        reasons = [task for task in tasks if isinstance(task, str)] if str in set(map(type, tasks)) else []
        known = [task for task in tasks if isinstance(task, PendingTask)] if reasons else tasks
        self._levels[level] = Level(cast("list[PendingTask]", known))
        self._foreign[level] = Counter(reasons)
        second = sum(item.level == level for item in self._second)
        if second:
            self._foreign[level][DUPLICATE] = second
        mirror.changed = False


def is_same(entry: Entry, other: Entry) -> bool:
    """Whether both are the same message, one of them perhaps known without its body."""
    return entry == other or (isinstance(other, bytes) and matches(entry, other))
