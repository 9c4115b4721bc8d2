"""Writes down what workers and operators did, as the lab's own JSON Lines. No arguments, no results."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Final, NamedTuple

from celery_dynprio.lab.conditions import Conditions
from celery_dynprio.lab.formats import jsonl
from celery_dynprio.lab.formats.parts import Parts
from celery_dynprio.ports.feed import Batch, Ended, Feed
from celery_dynprio.ports.stores import Audit

#: Seconds between two rounds of a recorder, and for which it asks workers to tell it: they go on while it is silent.
ROUND: Final = 1.0
ASKED: Final = 30.0

#: Seconds between two writes, between two questions to all workers, and of silence after which a worker is gone: one of
#: the solo pool is silent while it runs a task.
WRITE_INTERVAL: Final = 5.0
WORKERS_INTERVAL: Final = 10.0
SILENCE: Final = 35.0

#: So many processes are remembered, those that told something last.
MAX_SENDERS: Final = 10_000

#: How a task ended, by Celery's state; everything else is a failure.
OUTCOMES: Final[Mapping[str, str]] = {
    "SUCCESS": "success",
    "RETRY": jsonl.RETRY,
    "REVOKED": "cancelled",
    "IGNORED": "ignored",
    "REJECTED": "rejected",
}


@dataclass(frozen=True, slots=True)
class Target:
    """Where to record to: a file, how large each file may become (bytes), and how many are kept."""

    path: Path
    size: int = 100_000_000
    files: int = 10
    #: With which keys are hashed; None leaves them readable.
    secret: str | None = None


class Sources(NamedTuple):
    """Where a recorder learns what happened."""

    feed: Feed
    audit: Audit
    #: Asks the workers how many tasks each runs at once; returns nothing if none can be asked.
    slots: Callable[[], Mapping[str, int]]


class Recorder:
    """One recording under way; :meth:`turn` does a round of it.

    ``clock`` gives Unix seconds. Raises :class:`~celery_dynprio.errors.RecordingError` if the file cannot be written. A
    round may raise OSError and what the broker raises; the next one goes on.
    """

    def __init__(self, sources: Sources, target: Target, conditions: Conditions, clock: Callable[[], float]) -> None:
        self._feed, self._audit, self._slots = sources
        self._conditions, self._secret, self._clock = conditions, target.secret, clock
        newest = next(self._audit.read(), None)
        self._operated = newest.at if newest else 0.0
        self._parts = Parts(target.path, self._header, clock, size=target.size, files=target.files)
        #: When it was last written, and looked at workers; a clock may go back.
        self._written = self._looked = -math.inf
        #: Slots of each worker as last written, and when it answered last.
        self._workers: dict[str, int] = {}
        self._answered: dict[str, float] = {}
        #: How many tries each process has told of, those that got lost included, as far as it is known.
        self._totals: dict[str, int] = {}
        self._lost = self._noted = 0
        #: Tries that came.
        self.tries = 0

    @property
    def dropped(self) -> int:
        """Tries that are not in the recording: they got lost on the way, or could not be written."""
        return self._lost + self._parts.dropped

    def turn(self) -> None:
        """Ask workers to tell, and write down what they and operators did."""
        self._feed.ask(ASKED)
        now = self._clock()
        if not 0 <= now - self._looked < WORKERS_INTERVAL:
            self._looked = now
            self._look(now)
        for batch in self._feed.read():
            self._count(batch)
            for ended in batch.ended:
                self._write(self._task(ended))
                if ended.worker not in self._workers:  # it came after the last question
                    self._workers[ended.worker] = 0
                    self._looked = -math.inf
        if not 0 <= now - self._written < WRITE_INTERVAL:
            self._written = now
            self._flush(now)

    def close(self) -> None:
        """Write what waits; the feed and the audit are closed by whoever opened them."""
        try:
            self._flush(self._clock())
        finally:
            self._parts.close()

    def _write(self, fields: Mapping[str, Any]) -> None:
        self._parts.write(jsonl.line_of(fields))

    def _header(self) -> str:
        workers = {name: slots for name, slots in self._workers.items() if slots}
        return jsonl.header(at=self._clock(), workers=workers, **self._conditions.as_object())

    def _count(self, batch: Batch) -> None:
        self.tries += len(batch.ended)
        before = batch.total - len(batch.ended)
        self._lost += max(before - self._totals.pop(batch.sender, before), 0)
        self._totals[batch.sender] = batch.total
        if len(self._totals) > MAX_SENDERS:
            del self._totals[next(iter(self._totals))]

    def _flush(self, now: float) -> None:
        new = list(takewhile(lambda entry: entry.at > self._operated, self._audit.read()))
        for entry in reversed(new):
            self._operated = entry.at
            about = {"queue": entry.queue, "id": entry.id, "task": entry.task, "answer": entry.answer}
            known = {name: value for name, value in about.items() if value}
            self._write({"at": entry.at, "operator": entry.op, **known})
        self._note_dropped(now)
        self._parts.flush()

    def _note_dropped(self, now: float) -> None:
        dropped = self.dropped
        if dropped > self._noted:
            self._write({"at": now, "dropped": dropped - self._noted})
            self._noted = dropped

    def _look(self, now: float) -> None:
        """Write down which workers came, went, or changed."""
        found = self._slots()
        for worker, slots in found.items():
            self._answered[worker] = now
            self._change(worker, slots, now)
        for worker, at in list(self._answered.items()):
            if not 0 <= now - at <= SILENCE:
                del self._answered[worker]
                self._change(worker, 0, at)

    def _change(self, worker: str, slots: int, at: float) -> None:
        if self._workers.get(worker, 0) != slots:
            self._workers[worker] = slots
            self._write({"at": at, "worker": worker, "slots": slots})

    def _task(self, ended: Ended) -> dict[str, Any]:
        at = ended.started if ended.at is None else ended.at
        at = self._clock() if at is None else at
        ready = max(at, ended.eta or at)
        return {
            "at": round(at, 6),
            "name": ended.name,
            "run": round(ended.ran, 6),
            **_known(
                id=ended.id,
                queue=ended.queue,
                key=None if ended.key is None else self._hashed(ended.key),
                weight=ended.weight if ended.weight != 1.0 else None,
                deadline=None if ended.due is None else round(ended.due - at, 6),
                eta=round(ready - at, 6) if ready > at else None,
                dependents=ended.dependents or None,
                pinned=ended.pinned,
                outcome=OUTCOMES.get(ended.state, "failure"),
                waited=None if ended.at is None or ended.started is None else round(max(ended.started - ready, 0.0), 6),
                worker=ended.worker or None,
                process=ended.process or None,
                level=ended.level,
                start_level=ended.start_level,
            ),
            **({"try": ended.attempt} if ended.attempt > 1 else {}),
        }

    def _hashed(self, key: str) -> str:
        if self._secret is None:
            return key
        secret = hashlib.sha256(self._secret.encode()).digest()
        return hashlib.blake2b(key.encode(), key=secret, digest_size=8).hexdigest()


def _known(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
