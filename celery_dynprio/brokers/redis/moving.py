"""Moves tasks: each move is a step of one call of ``lua/move.lua``; see there for what it keeps true."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import uuid4

from celery_dynprio import message
from celery_dynprio.brokers.redis.costs import work_of
from celery_dynprio.brokers.redis.front import Front
from celery_dynprio.brokers.redis.heads import Heads
from celery_dynprio.brokers.redis.keys import QueueKeys
from celery_dynprio.brokers.redis.parked import ParkedIndex
from celery_dynprio.brokers.redis.stubs import BEGINS, Entry, Stub, is_sought, size_of, text_of, told
from celery_dynprio.errors import LeaseLostError
from celery_dynprio.models import CANCELLED, HELD, OVERFLOW, Move, Moved, Outcome, Place, is_level

if TYPE_CHECKING:
    from celery_dynprio.brokers.redis.client import RedisClient

logger = logging.getLogger("celery_dynprio.backlogs.redis")

#: The move script stops by itself before so much work: microseconds, as ``lua/move.lua`` counts.
SCRIPT_WORK: Final = 1500

#: One call of it is for at most so many moves, and so many bytes: of the messages as they are and as they shall be.
BATCH_MOVES: Final = 100
BATCH_BYTES: Final = 512_000

_OUTCOMES: Final = (Outcome.GONE, Outcome.MOVED, Outcome.REFUSED, Outcome.MOVED)
_NOT_AUDITED: Final = 3  # index in _OUTCOMES
_PARKED: Final = (OVERFLOW, HELD, CANCELLED)  # in this order among move.lua's KEYS
_NO_BODY: Final = BEGINS + b'",'
_FIRST_LEVEL_KEY: Final = 7  # index in move.lua's KEYS
_KEY_INDEX: Final = {place: 4 + number for number, place in enumerate(_PARKED)}


class _Step(NamedTuple):
    """A move made ready for the script."""

    move: Move
    entry: Entry
    #: The message as it shall be, without its body as the one that it is; empty if it stays the same.
    new: bytes
    #: Where in the source to look for it, as move.lua counts.
    where: int


class Mover:
    """Makes moves in one queue, and keeps what is known of ``front`` and ``overflow`` in step with them.

    ``clock`` (Unix seconds) gives the time of a move; ``beat`` is called after each call of the script.
    """

    def __init__(
        self,
        client: RedisClient,
        keys: QueueKeys,
        heads: Heads,
        front: Front,
        overflow: ParkedIndex,
        *,
        clock: Callable[[], float],
        beat: Callable[[], object],
    ) -> None:
        self._queue = keys.queue
        self._scale = client.scale
        self._script = client.script("move")
        self._keys = [keys.lease, keys.moves, keys.audit, *(keys.parked[place] for place in _PARKED), *keys.levels]
        self._parked = keys.parked
        self._heads = heads
        self._front = front
        self._overflow = overflow
        self._clock = clock
        self._beat = beat

    def apply(self, moves: Sequence[Move], fence: str | None, audit: str) -> list[Outcome]:
        """Make the moves in this order, in calls that each block the server for a few milliseconds at most."""
        steps = [self._step(move, *source) for move, source in zip(moves, self.sources(moves), strict=True)]
        outcomes: list[Outcome] = []
        while len(outcomes) < len(steps):
            batch = self._batch(islice(steps, len(outcomes), len(outcomes) + BATCH_MOVES))
            done = self._run(batch, fence, audit)
            for step, outcome in zip(batch, done, strict=False):
                self._settle(step, outcome)
            outcomes += done
        return outcomes

    def sources(self, moves: Sequence[Move]) -> list[tuple[Entry, int]]:
        """Return for each move the message, and where in a list to look for it."""
        parked: dict[tuple[Place, str], Entry] = {}
        for place, key in self._parked.items():
            refs = [move.task.ref for move in moves if move.source == place]
            parked |= {(place, ref): entry for ref, entry in self._heads.fetch(key, refs) if entry is not None}
        return [
            self._front.locate(move.task.ref)
            if is_level(move.source)
            else (parked.get((move.source, move.task.ref), b""), 1)
            for move in moves
        ]

    def _step(self, move: Move, entry: Entry, where: int) -> _Step:
        # What is parked by the thousand stays as it is; a cancelled task has to tell since when it is.
        if not entry or (move.target in {OVERFLOW, HELD} and move.changes is None):
            return _Step(move, entry, b"", where)
        priority = self._scale.number_of(move.target) if is_level(move.target) else None
        try:
            moved = Moved(self._clock(), move.source, move.target, move.score, move.reason)
            new = message.rewrite(text_of(entry), priority, move.task, moved, move.changes)
        except RecursionError:  # nested so deeply that it could just be read, from a shallower call
            return self._left(move, entry, "not JSON")
        if not isinstance(entry, Stub):
            return _Step(move, entry, new, where)
        if not new.startswith(_NO_BODY):  # it has two bodies, and another one counts
            return self._left(move, entry, "not a message")
        return _Step(move, entry, new[len(BEGINS) :], where)

    def _left(self, move: Move, entry: Entry, reason: str) -> _Step:
        """No move: the script answers that the message is gone, and it is left where it is from now on."""
        self._front.reject(move.task, move.source, entry, reason)
        return _Step(move, b"", b"", 1)

    def _batch(self, steps: Iterable[_Step]) -> list[_Step]:
        """As many of these steps as one call may carry: what the script leaves undone would be sent again."""
        batch: list[_Step] = []
        size = work = 0.0
        for step in map(self._aimed, steps):
            weight = size_of(step.entry)
            size += weight + max(weight if isinstance(step.entry, Stub) else 0, len(step.new))
            work += work_of(step.move.source, step.entry, step.where)
            if batch and (size > BATCH_BYTES or work > SCRIPT_WORK):
                break
            batch.append(step)
        return batch

    def _aimed(self, step: _Step) -> _Step:
        """The step as it is after those of earlier calls: a large message has to be found near where it should be."""
        if not is_sought(step.entry) or not is_level(step.move.source):
            return step
        entry, where = self._front.locate(step.move.task.ref)
        return step._replace(where=where) if entry == step.entry else step

    def _run(self, steps: Sequence[_Step], fence: str | None, audit: str) -> list[Outcome]:
        """Call the script with these steps; return the outcomes of those it made."""
        rows: list[Any] = []
        texts: list[bytes] = []
        for move, entry, new, where in steps:
            target = _key_index(move.target) * (-1 if move.first else 1)
            note = _audit_of(audit, self._queue, move) if audit else ""
            field = move.task.id if is_level(move.source) else move.task.ref
            size = entry.size if isinstance(entry, Stub) else 0
            old = told(entry)
            rows.append((_key_index(move.source), target, field, size, where, note, len(old), len(new)))
            texts += (old, new)
        # One long argument is sent in less time than many.
        orders, text = json.dumps(rows, ensure_ascii=False), b"".join(texts)
        arguments: list[Any] = [fence or "", SCRIPT_WORK, orders, text, f"dynprio {uuid4()}"]
        answer = self._script(keys=self._keys, args=arguments)
        self._beat()
        if answer is None:
            raise LeaseLostError(f"queue {self._queue!r}: another reprioritizer leads it now; nothing was moved")
        if _NOT_AUDITED in answer:
            logger.warning("queue %r: moved, but the broker refused to keep it in the log of operations", self._queue)
        return [_OUTCOMES[code] for code in answer]

    def _settle(self, step: _Step, outcome: Outcome) -> None:
        """Keep what we know of the queue in step with what was done."""
        task, source, target = step.move.task, step.move.source, step.move.target
        if outcome is Outcome.REFUSED:
            return
        if outcome is Outcome.MOVED:
            self._front.count_move(target)
        if source == OVERFLOW:
            self._overflow.forget(task.id)
        elif is_level(source):
            self._front.remove(task, source, step.entry, step.where)
        if outcome is Outcome.GONE:
            return
        new = _changed(step.entry, step.new)
        if target == OVERFLOW:
            self._overflow.remember(replace(task, copy=""), size_of(new))
        elif is_level(target):
            stays = source == target and not step.move.first
            self._front.place(task, new, -1 if step.move.first else step.where if stays else 1)
            if stays:
                self._front.reread(source)
            if step.move.changes is None:
                self._front.remember(new, task)


def _changed(entry: Entry, new: bytes) -> Entry:
    """The message with what was written instead of it, or of what comes behind its body."""
    if not new:
        return entry
    return Stub(entry.size - len(entry.rest) + len(new), new) if isinstance(entry, Stub) else new


def _audit_of(audit: str, queue: str, move: Move) -> str:
    """What the audit keeps of one move."""
    what = {"queue": queue, "id": move.task.id, "task": move.task.name, "from": move.source, "to": move.target}
    return json.dumps({**json.loads(audit), **what})


def _key_index(place: Place) -> int:
    return _FIRST_LEVEL_KEY + place if is_level(place) else _KEY_INDEX[place]
