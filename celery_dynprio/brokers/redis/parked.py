"""What is known of the overflow: the hash in Redis can hold a million messages, and is read a slice at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from celery_dynprio.brokers.redis.heads import Heads
from celery_dynprio.brokers.redis.reading import Pace
from celery_dynprio.brokers.redis.stubs import size_of, text_of
from celery_dynprio.models import PendingTask

#: Messages (bytes) whose size does not matter, and is not kept: there may be a million.
SMALL: Final = 10_000


class ParkedIndex:
    """The tasks in one hash of parked messages, by id; without their messages, which stay in Redis.

    What this process parks or brings back is noted at once. What others do is found later: a task that is gone when it
    is brought back, and one that is new when the hash has more entries than are known, which starts a new scan.
    """

    def __init__(self, heads: Heads, key: str, parse: Callable[[bytes, float, int], PendingTask | str]) -> None:
        self.key = key
        #: Known so far, by task id, and whether somebody was given it, so that it may not change.
        self._tasks: dict[str, PendingTask] = {}
        self._given = False
        #: Of these, the bytes of the messages that are not small.
        self.sizes: dict[str, int] = {}
        self._heads = heads
        self._pace = Pace()
        self._parse = parse
        self._unreadable: set[bytes] = set()
        self._cursor: Any = 0
        self._scanning = False

    def frozen(self) -> Mapping[str, PendingTask]:
        """Return what is known now, by task id. It does not change: the next change here makes a copy first."""
        self._given = True
        return MappingProxyType(self._tasks)

    def remember(self, task: PendingTask, size: int) -> None:
        """Note a task that was parked, and how many bytes its message has."""
        self._own()
        self._tasks[task.id] = task
        if size > SMALL:
            self.sizes[task.id] = size

    def forget(self, task_id: str) -> None:
        """Note that a task is parked no more."""
        self._own()
        self._tasks.pop(task_id, None)
        self.sizes.pop(task_id, None)

    def clear(self) -> None:
        """Forget all: somebody else may have moved any of them meanwhile."""
        self._tasks, self._given = {}, False
        self.sizes.clear()
        self._unreadable.clear()
        self._scanning = False

    def catch_up(self, depth: int, now: float, limit: int) -> None:
        """Read at most about ``limit`` entries, if the hash has more (``depth``) than are known."""
        if not depth:
            self.clear()
        if not self._scanning:
            if depth <= len(self._tasks) + len(self._unreadable):
                return
            self._scanning, self._cursor, self._pace = True, 0, Pace(1)
            self._unreadable.clear()
        seen = 0
        while seen < limit:
            self._cursor, entries = self._heads.scan(self.key, self._cursor, self._pace)
            seen += max(len(entries), 1)
            for field, entry in entries.items():
                task = self._parse(text_of(entry), now, size_of(entry))
                if isinstance(task, PendingTask) and task.id.encode() == field:
                    self.remember(self._tasks.get(task.id, task), size_of(entry))
                else:
                    self._unreadable.add(field)
            if not self._cursor:
                self._scanning = False
                return

    def _own(self) -> None:
        """Copy what somebody was given: 0.6 ms for 100,000 tasks, and only where something changes."""
        if self._given:
            self._tasks, self._given = self._tasks.copy(), False
