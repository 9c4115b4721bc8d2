"""Pending tasks in Redis: kombu's own lists, one a level, and two hashes for what is parked.

Workers pop the tail of the lists and need nothing from us. Everything that changes a place is one call of
``lua/move.lua``; see there for what it keeps true.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, Final, NamedTuple

from celery_dynprio import message
from celery_dynprio.brokers.redis.client import BrokerClock, RedisClient
from celery_dynprio.brokers.redis.counts import count_places, parked_keys
from celery_dynprio.brokers.redis.parked import ParkedIndex
from celery_dynprio.brokers.redis.reading import CHUNK, Entry, Reader
from celery_dynprio.brokers.redis.scan import MOST_LOOKS, Scan, parked
from celery_dynprio.brokers.redis.search import Search
from celery_dynprio.errors import LeaseLostError
from celery_dynprio.models import (
    CANCELLED,
    HELD,
    OVERFLOW,
    Move,
    Moved,
    Outcome,
    PendingTask,
    Place,
    Snapshot,
    is_level,
)
from celery_dynprio.ports.broker import Capabilities, Found

logger = logging.getLogger("celery_dynprio.backlogs.redis")

#: The move script stops by itself before so much work (messages passed in a list, 0.3 us each at the worst).
SCRIPT_WORK: Final = 8_000

#: Of a list that is longer than twice this only so many messages are read: what is deeper, seen from both ends, would
#: block the server for too long when it is moved. A front of the default window is never so deep.
REACH: Final = 6_000

#: One call of the move script carries at most so many moves and bytes.
BATCH_MOVES: Final = 100
BATCH_BYTES: Final = 512_000

#: Seconds of broker time: a move costs the first, and the second for each message that LREM passes on its way.
MOVE_SECONDS: Final = 20e-6
PASS_SECONDS: Final = 150e-9

#: Of smaller messages (bytes), what comparing two takes is in PASS_SECONDS.
SMALL: Final = 2_000

#: The same for each byte of the message, and for each that is compared with that of another one of its size.
BYTE_SECONDS: Final = 3e-9
COMPARE_SECONDS: Final = 0.2e-9

#: Seconds for which a level is not read again, a byte of the large messages in it: to see that a message is too large
#: takes the broker about 1 ms a megabyte, and all of these together no more than a twentieth of its time.
LARGE_PAUSE: Final = 20e-9

_OUTCOMES: Final = (Outcome.GONE, Outcome.MOVED, Outcome.REFUSED, Outcome.MOVED)
_NOT_AUDITED: Final = 3  # index in _OUTCOMES
_FIRST_LEVEL_KEY: Final = 7  # index in move.lua's KEYS
_NOWHERE: Final = (b"", 1)  # an empty message is in no list: the script answers "gone"
_KEY_INDEX: Final = {OVERFLOW: 4, HELD: 5, CANCELLED: 6}


class _Step(NamedTuple):
    """A move made ready for the script."""

    move: Move
    raw: bytes
    #: The message as it shall be; empty if it stays the same.
    new: bytes
    #: Where in the source to look for it, as move.lua counts.
    where: int


class _Dear(NamedTuple):
    """What was read of a level with messages that are too large: seeing that they are takes the broker long."""

    #: When it is read again (``time.monotonic``).
    until: float
    entries: Sequence[tuple[int, Entry]]
    #: What was moved away since.
    gone: set[Entry]


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
        self._clock = clock or BrokerClock(client)
        self._beat = beat
        self.capabilities = Capabilities()
        self._client = client
        self._redis = client.redis
        self._scale = client.scale
        self._window = window
        self._reach = max(REACH, window * 6 // 10)
        self._lists = [client.level_key(queue, level) for level in self._scale.levels]
        self._parked_keys = parked_keys(client, queue)
        self._moves_key = client.queue_key(queue, "moves")
        self._keys = [
            client.queue_key(queue, "lease"),
            self._moves_key,
            client.app_key("audit"),
            *(self._parked_keys[place] for place in _KEY_INDEX),
            *self._lists,
        ]
        self._move = client.script("move")
        self._reader = Reader(client, beat)
        self._search = Search(
            client,
            self._reader,
            lists=self._lists,
            hashes=self._parked_keys,
            moves_key=self._moves_key,
            parse=self._parse,
        )
        self._parsed: dict[bytes, PendingTask | str] = {}
        #: Of the last read, by task id: the message, and where in its list it is, as move.lua counts.
        self._front: dict[str, tuple[bytes, int]] = {}
        self._overflow = ParkedIndex(self._reader, self._parked_keys[OVERFLOW], self._parse)
        self._depths: list[int] = [0] * len(self._scale.levels)
        #: What was read of each level, until it is asked how many of these messages have which size.
        self._sizes: list[Sequence[tuple[int, Entry]] | Counter[int]] = [()] * len(self._scale.levels)
        #: Levels that had messages which are too large to be moved.
        self._dear: dict[Place, _Dear] = {}

    def read(self, now: float, *, overflow: bool = True) -> Snapshot:
        """Read what waits; messages seen before are not parsed again. Of two with one id the second is foreign.

        Without ``overflow``, nothing new is learned of what is parked.
        """
        counts = self.count()
        self._depths = [counts[level] for level in self._scale.levels]
        parsed: dict[bytes, PendingTask | str] = {}
        foreign = Counter[str]()
        self._front = {}
        levels, room = [], 2 * self._window
        for level, depth in enumerate(self._depths):
            wanted = min(depth, room) if depth <= 2 * self._reach else min(self._reach, room)
            entries = self._level(level, depth, wanted)
            self._sizes[level] = entries
            levels.append(tuple(self._tasks(entries, parsed, foreign, now)))
            room -= wanted
        self._parsed = parsed
        if overflow:
            self._overflow.catch_up(counts[OVERFLOW], now, limit=5 * self._window)
        parked = counts[OVERFLOW], counts[HELD], counts[CANCELLED]
        return Snapshot(tuple(levels), tuple(self._depths), self._overflow.frozen(), *parked, foreign)

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
        known, front = self._parsed.get, self._front
        for where, raw in reversed(entries):
            if isinstance(raw, int):
                foreign[message.TOO_LARGE] += 1
                continue
            if raw in parsed:  # pushes from elsewhere shifted the list between two chunks
                continue
            entry = known(raw) or self._parse(raw, now)
            parsed[raw] = entry
            if isinstance(entry, PendingTask) and entry.id not in front:
                front[entry.id] = raw, where
                yield entry
            else:
                foreign[entry if isinstance(entry, str) else "duplicate id"] += 1

    def find(self, ids: Collection[str], now: float) -> dict[str, list[Found]]:
        """Look for all messages with these ids; again, as long as some may be missing, moved by others meanwhile."""
        sighted = self._search.find(ids, now)
        for each in chain.from_iterable(sighted.values()):
            if is_level(each.found.place):
                self._front[each.found.task.ref] = each.raw, each.where
        return {task_id: [each.found for each in same] for task_id, same in sighted.items()}

    def ids_with(self, start: str, now: float) -> set[str]:
        """The ids that begin with this text, of all that waits."""
        return self._search.ids_with(start, now)

    def headers(self, moves: Sequence[Move]) -> dict[str, Mapping[str, Any]]:
        """The headers of the messages that these moves are of; one round trip for each parked place."""
        return {
            move.task.id: message.headers_of(raw)
            for move, (raw, _) in zip(moves, self._sources(moves), strict=True)
            if raw
        }

    def apply(self, moves: Sequence[Move], fence: str | None = None, audit: str = "") -> list[Outcome]:
        """Make the moves in this order, in calls that each block the server for one to two milliseconds."""
        steps = [self._step(move, *source) for move, source in zip(moves, self._sources(moves), strict=True)]
        outcomes: list[Outcome] = []
        size = BATCH_MOVES
        while len(outcomes) < len(steps):
            done = self._run(steps[len(outcomes) : len(outcomes) + size], fence, audit)
            for step, outcome in zip(steps[len(outcomes) :], done, strict=False):
                self._settle(step, outcome)
            outcomes += done
            size = min(BATCH_MOVES, 2 * len(done))  # what the script left undone is sent again
        return outcomes

    def spill(self, count: int, now: float, fence: str | None = None) -> int:
        """Park the newest messages of the last levels in bulk, at most ``count``; return how many."""
        parked = 0
        for level in reversed(self._scale.levels):
            offset = 0  # what cannot be parked stays at the head, and is passed over
            while parked < count:
                part = self._reader.look(self._lists[level], offset, min(CHUNK, count - parked))
                if not part.looked:
                    break
                raws = [entry for _, entry in part.found if isinstance(entry, bytes)]
                moved = self._spill_chunk(raws, level, now, fence)
                parked += moved
                offset += part.looked - moved
            if parked >= count:
                break
        return parked

    def parked(self, place: Place, now: float) -> Iterator[PendingTask]:
        """All tasks in one of the two parked places; read in chunks, so what others change meanwhile may be missed."""
        for entry, _ in self.parked_messages(place, now):
            yield entry

    def parked_messages(self, place: Place, now: float) -> Iterator[tuple[PendingTask, bytes]]:
        """All tasks in one of the parked places as :meth:`parked`, each with its message."""
        return parked(self._reader, self._parked_keys[place], lambda raw: self._parse(raw, now))

    def message(self, ref: str, place: Place) -> bytes | None:
        """The message in a parked place, or that was read or found in the front; None if there is none."""
        if is_level(place):
            return self._front.get(ref, _NOWHERE)[0] or None
        raw: bytes | None = self._redis.hget(self._parked_keys[place], ref)
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
        keys = dict(enumerate(self._lists)) | self._parked_keys
        return Scan(
            self._reader,
            keys,
            lambda raw: self._parse(raw, now),
            counts=self.count,
            moves=self.moves,
            keep=self._keep,
            most=most,
            looks=looks,
        )

    def _keep(self, task: PendingTask, raw: bytes, where: int) -> None:
        self._front[task.ref] = raw, where

    def cancelled(self, ids: Sequence[str]) -> list[str]:
        """Those of these tasks that were cancelled, and whose end is not told yet."""
        pipe = self._redis.pipeline(transaction=False)
        for task_id in ids:
            pipe.hexists(self._parked_keys[CANCELLED], task_id)
        return [task_id for task_id, found in zip(ids, pipe.execute(), strict=True) if found]

    def discard(self, ref: str, place: Place) -> bool:
        """Remove one parked message for good; tell whether it was there."""
        return bool(self._redis.hdel(self._parked_keys[place], ref))

    def moves(self) -> int:
        """How many moves were ever made in this queue, by whomever."""
        return int(self._redis.get(self._moves_key) or 0)

    def count(self) -> dict[Place, int]:
        """Messages in each place; one round trip."""
        return count_places(self._client, [self.queue])[self.queue]

    def cost(self, move: Move) -> float:
        """Seconds of broker time of one move: LREM compares the message with all it passes that are as large."""
        if not is_level(move.source):
            return MOVE_SECONDS + BYTE_SECONDS * self._overflow.sizes.get(move.task.id, 0)
        raw, where = self._front.get(move.task.ref, _NOWHERE)
        passing = PASS_SECONDS
        if len(raw) > SMALL:
            passing += COMPARE_SECONDS * len(raw) * self._alike(move.source, len(raw))
        return MOVE_SECONDS + BYTE_SECONDS * len(raw) + abs(where) * passing

    def _alike(self, level: Place, size: int) -> float:
        """The share of a level's messages that have so many bytes."""
        sizes = self._sizes[level]
        if not isinstance(sizes, Counter):
            sizes = self._sizes[level] = Counter(raw if isinstance(raw, int) else len(raw) for _, raw in sizes)
        return sizes[size] / max(sizes.total(), 1)

    def close(self) -> None:
        """Forget what was read; the client belongs to whoever made it."""
        self._parsed, self._front = {}, {}
        self._dear.clear()
        self._sizes = [()] * len(self._scale.levels)
        self._overflow.clear()

    def _parse(self, raw: bytes, now: float) -> PendingTask | str:
        return message.parse(raw, now, self._scale, self._client.default_priority)

    def _sources(self, moves: Sequence[Move]) -> list[tuple[bytes, int]]:
        """For each move: the message, and where in a list to look for it."""
        parked: dict[tuple[Place, str], bytes] = {}
        for place, key in self._parked_keys.items():
            refs = [move.task.ref for move in moves if move.source == place]
            parked |= {(place, ref): raw for ref, raw in self._reader.fetch(key, refs) if raw is not None}
        return [
            self._front.get(move.task.ref, _NOWHERE)
            if is_level(move.source)
            else (parked.get((move.source, move.task.ref), b""), 1)
            for move in moves
        ]

    def _step(self, move: Move, raw: bytes, where: int) -> _Step:
        # What is parked by the thousand stays as it is; a cancelled task has to tell since when it is.
        if not raw or (move.target in {OVERFLOW, HELD} and move.changes is None):
            return _Step(move, raw, b"", where)
        priority = self._scale.number_of(move.target) if is_level(move.target) else None
        try:
            moved = Moved(self._clock(), move.source, move.target, move.score, move.reason)
            return _Step(move, raw, message.rewrite(raw, priority, move.task, moved, move.changes), where)
        except RecursionError:  # nested so deeply that it could just be read, from a shallower call
            self._parsed[raw] = "not JSON"
            return _Step(move, b"", b"", 1)

    def _run(self, steps: Sequence[_Step], fence: str | None, audit: str) -> list[Outcome]:
        arguments: list[Any] = [fence or "", SCRIPT_WORK]
        size = 0
        for move, raw, new, where in steps:
            target = _key_index(move.target) * (-1 if move.first else 1)
            note = audit and _noted(audit, self.queue, move)
            field = move.task.id if is_level(move.source) else move.task.ref
            arguments += (_key_index(move.source), target, field, raw, new, where, note)
            size += len(raw) + len(new)
            if size > BATCH_BYTES:
                break
        answer = self._move(keys=self._keys, args=arguments)
        self._beat()
        if answer is None:
            raise LeaseLostError(f"queue {self.queue!r}: another reprioritizer leads it now; nothing was moved")
        if _NOT_AUDITED in answer:
            logger.warning("queue %r: moved, but the broker refused to keep it in the log of operations", self.queue)
        return [_OUTCOMES[code] for code in answer]

    def _settle(self, step: _Step, outcome: Outcome) -> None:
        """Keep what we know of the queue in step with what was done."""
        task, source, target = step.move.task, step.move.source, step.move.target
        if outcome is Outcome.REFUSED:
            return
        if source == OVERFLOW:
            self._overflow.forget(task.id)
        elif is_level(source):
            self._front.pop(task.ref, None)
            if source in self._dear:
                self._dear[source].gone.add(step.raw)
        if outcome is Outcome.GONE:
            return
        if target == OVERFLOW:
            self._overflow.remember(replace(task, copy=""), len(step.new or step.raw))
        elif is_level(target):
            where = step.where if source == target else 1
            self._front[task.ref] = step.new, -1 if step.move.first else where
            if step.move.changes is None:
                self._parsed[step.new] = task

    def _spill_chunk(self, raws: Sequence[bytes], level: int, now: float, fence: str | None) -> int:
        moves: dict[str, Move] = {}
        for raw in raws:
            entry = self._parse(raw, now)
            if isinstance(entry, PendingTask) and entry.id not in moves:
                self._front[entry.id] = raw, 1  # those before it are gone by then
                moves[entry.id] = Move(entry, level, OVERFLOW, 0.0, "overflow")
        return self.apply(list(moves.values()), fence).count(Outcome.MOVED)


def _noted(audit: str, queue: str, move: Move) -> str:
    """What the audit keeps of one move."""
    what = {"queue": queue, "id": move.task.id, "task": move.task.name, "from": move.source, "to": move.target}
    return json.dumps({**json.loads(audit), **what})


def _key_index(place: Place) -> int:
    return _FIRST_LEVEL_KEY + place if is_level(place) else _KEY_INDEX[place]
