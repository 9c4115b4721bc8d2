"""Pending tasks in Redis: kombu's own lists, one a level, and two hashes for what is parked.

Workers pop the tail of the lists and need nothing from us. Everything that changes a place is one call of
``lua/move.lua``; see there for what it keeps true.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final

from celery_dynprio import message
from celery_dynprio.brokers.redis.client import BrokerClock, RedisClient
from celery_dynprio.brokers.redis.costs import move_cost
from celery_dynprio.brokers.redis.counts import count_places
from celery_dynprio.brokers.redis.front import Front
from celery_dynprio.brokers.redis.heads import Heads
from celery_dynprio.brokers.redis.keys import QueueKeys
from celery_dynprio.brokers.redis.moving import Mover
from celery_dynprio.brokers.redis.news import ENDS, NewsReader, Question
from celery_dynprio.brokers.redis.parked import ParkedIndex
from celery_dynprio.brokers.redis.reading import Reader
from celery_dynprio.brokers.redis.scan import MOST_LOOKS, Scan, parked
from celery_dynprio.brokers.redis.search import Search
from celery_dynprio.brokers.redis.stubs import Entry, Stub, size_of, text_of
from celery_dynprio.models import (
    CANCELLED,
    HELD,
    OVERFLOW,
    Move,
    Outcome,
    PendingTask,
    Place,
    Snapshot,
    is_level,
)
from celery_dynprio.ports.broker import Capabilities, Found

#: In an environment with this variable each read is compared with all that is in the front at that moment; it raises an
#: AssertionError where they differ. For tests.
CHECKED: Final = "DYNPRIO_CHECKED_READS"

#: A read learns of so many windows of a long overflow that it does not know yet: half a second of work by default.
LEARNED_WINDOWS: Final = 2

#: The bytes of messages after which a read leaves what it has not read to the next one: the server looks at them in
#: less than a tenth of a second.
READ_BYTES: Final = 50_000_000


class RedisBacklog:
    """One managed queue in Redis; see :class:`~celery_dynprio.ports.broker.Backlog` for the methods.

    ``window`` (messages) bounds what is read of a front that is far too deep: twice the window, the next to run first.
    ``clock`` (Unix seconds; the broker's if None) tells when a move was made; ``beat`` is called with each step of what
    may take long.
    """

    def __init__(
        self,
        client: RedisClient,
        queue: str,
        window: int = 10_000,
        clock: Callable[[], float] | None = None,
        beat: Callable[[], object] = lambda: None,
    ) -> None:
        self.queue = queue
        self.capabilities = Capabilities()
        self._client = client
        self._redis = client.redis
        self._scale = client.scale
        self._window = window
        self._keys = keys = QueueKeys.of(client, queue)
        self._reader = reader = Reader(client, beat)
        self._search = Search(
            client, reader, lists=keys.levels, hashes=keys.parked, moves_key=keys.moves, parse=self._parse
        )
        self._news = news = NewsReader(client, keys.moves, beat, checked=CHECKED in os.environ)
        heads = Heads(client, beat)
        self._front = Front(news, keys.levels, window, self._parse)
        self._overflow = ParkedIndex(heads, keys.parked[OVERFLOW], self._parse)
        self._mover = Mover(
            client, keys, heads, self._front, self._overflow, clock=clock or BrokerClock(client), beat=beat
        )

    def read(self, now: float, *, overflow: bool = True) -> Snapshot:
        """Read what waits; messages seen before are not parsed again. Of two with one id the second is foreign.

        Of a front with very much that is new, some levels are left to the next reads, and empty until then. Without
        ``overflow`` none are, and nothing new is learned of what is parked.
        """
        counts = self.count()
        depths = [counts[level] for level in self._scale.levels]
        levels, foreign = self._front.read(depths, now, READ_BYTES if overflow else math.inf)
        if overflow:
            self._overflow.catch_up(counts[OVERFLOW], now, limit=LEARNED_WINDOWS * self._window)
        parked = counts[OVERFLOW], counts[HELD], counts[CANCELLED]
        return Snapshot(levels, tuple(depths), self._overflow.frozen(), *parked, foreign)

    def find(self, ids: Collection[str], now: float) -> dict[str, list[Found]]:
        """Look for all messages with these ids; again, as long as some may be missing, moved by others meanwhile."""
        sighted = self._search.find(ids, now)
        for each in chain.from_iterable(sighted.values()):
            if is_level(each.found.place):
                self._front.place(each.found.task, each.raw, each.where)
        return {task_id: [each.found for each in same] for task_id, same in sighted.items()}

    def ids_with(self, start: str, now: float) -> set[str]:
        """The ids that begin with this text, of all that waits."""
        return self._search.ids_with(start, now)

    def headers(self, moves: Sequence[Move]) -> dict[str, Mapping[str, Any]]:
        """The headers of the messages that these moves are of; one round trip for each parked place."""
        return {
            move.task.id: message.headers_of(text_of(entry))
            for move, (entry, _) in zip(moves, self._mover.sources(moves), strict=True)
            if entry
        }

    def apply(self, moves: Sequence[Move], fence: str | None = None, audit: str = "") -> list[Outcome]:
        """Make the moves in this order, in calls that each block the server for a few milliseconds at most."""
        return self._mover.apply(moves, fence, audit)

    def spill(self, count: int, now: float, fence: str | None = None) -> int:
        """Park the newest messages of the last levels in bulk, at most ``count``; return how many."""
        parked = 0
        for level in reversed(self._scale.levels):
            stays = 0  # what cannot be parked stays at the head, and is passed over
            while parked < count:
                _, (news,) = self._news.ask([Question(self._keys.levels[level], stays)])
                entries = news.entries[: count - parked]
                moved = self._spill_chunk(entries, level, stays, now, fence)
                parked += moved
                stays += len(entries) - moved
                if news.state == ENDS and len(entries) == len(news.entries):
                    break
            if parked >= count:
                break
        return parked

    def parked(self, place: Place, now: float) -> Iterator[PendingTask]:
        """All tasks in one of the two parked places; read in chunks, so what others change meanwhile may be missed."""
        for entry, _ in self.parked_messages(place, now):
            yield entry

    def parked_messages(self, place: Place, now: float) -> Iterator[tuple[PendingTask, bytes]]:
        """All tasks in one of the parked places as :meth:`parked`, each with its message."""
        return parked(self._reader, self._keys.parked[place], lambda raw: self._parse(raw, now))

    def message(self, ref: str, place: Place) -> bytes | None:
        """The message in a parked place, or that was read or found in the front; None if there is none."""
        if is_level(place):
            return self._message_in_front(ref)
        raw: bytes | None = self._redis.hget(self._keys.parked[place], ref)
        return raw

    def cancelled_messages(self, task_id: str, messages: int = 1) -> dict[str, bytes]:
        """The messages of a cancelled task whose end is not told yet, by their fields; ``messages`` as far as known."""
        place = CANCELLED
        raw = self.message(task_id, place)
        found = {} if raw is None else {task_id: raw}
        if messages > 1:
            copies = ((task.ref, raw) for task, raw in self.parked_messages(place, 0.0) if task.id == task_id)
            found |= dict(copies)
        return found

    def scan(self, now: float, most: int | None = None, looks: int = MOST_LOOKS) -> Scan:
        """Look at all that waits, each message with its place: see :class:`~celery_dynprio.brokers.redis.scan.Scan`."""
        keys = {**dict(enumerate(self._keys.levels)), **self._keys.parked}
        return Scan(
            self._reader,
            keys,
            lambda raw: self._parse(raw, now),
            counts=self.count,
            moves=self.moves,
            keep=self._front.place,
            most=most,
            looks=looks,
        )

    def cancelled(self, ids: Sequence[str]) -> list[str]:
        """Those of these tasks that were cancelled, and whose end is not told yet."""
        pipe = self._redis.pipeline(transaction=False)
        for task_id in ids:
            pipe.hexists(self._keys.parked[CANCELLED], task_id)
        return [task_id for task_id, found in zip(ids, pipe.execute(), strict=True) if found]

    def discard(self, ref: str, place: Place) -> bool:
        """Remove one parked message for good; tell whether it was there."""
        return bool(self._redis.hdel(self._keys.parked[place], ref))

    def moves(self) -> int:
        """How many moves were ever made in this queue, by whomever."""
        count = self._redis.mget(self._keys.moves)[0]  # None if the key holds no text
        return int(count) if count and count.isdigit() else 0

    def count(self) -> dict[Place, int]:
        """Messages in each place; one round trip."""
        return count_places(self._client, [self.queue])[self.queue]

    def cost(self, move: Move) -> float:
        """Seconds of broker time of one move."""
        return move_cost(move, self._front, self._overflow)

    def close(self) -> None:
        """Forget what was read; the client belongs to whoever made it."""
        self._front.clear()
        self._overflow.clear()

    def _message_in_front(self, ref: str) -> bytes | None:
        entry, _ = self._front.locate(ref)
        if not isinstance(entry, Stub):
            return entry or None
        found = self._search.in_front([ref], 0.0)
        return found[0].raw if found else None

    def _parse(self, raw: bytes, now: float, size: int | None = None) -> PendingTask | str:
        return message.parse(raw, now, self._scale, self._client.default_priority, size)

    def _spill_chunk(self, entries: Sequence[Entry], level: int, stays: int, now: float, fence: str | None) -> int:
        """Park these, which ``stays`` messages of the level are before; by then those parked before them are gone."""
        moves: dict[str, Move] = {}
        for entry in entries:
            task = self._parse(text_of(entry), now, size_of(entry))
            if isinstance(task, PendingTask) and task.id not in moves:
                self._front.place(task, entry, stays + 1)
                moves[task.id] = Move(task, level, OVERFLOW, 0.0, "overflow")
            else:
                stays += 1
        return self.apply(list(moves.values()), fence).count(Outcome.MOVED)
