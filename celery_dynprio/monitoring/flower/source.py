"""The data of the page: read from the broker in threads, and kept for a moment for all browsers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from celery_dynprio.app import DynPrio
from celery_dynprio.errors import ArgumentError, DynPrioError, NotPendingError
from celery_dynprio.hosting.orm import close_connections
from celery_dynprio.monitoring.flower.kept import Kept
from celery_dynprio.monitoring.flower.lookups import Lookups
from celery_dynprio.monitoring.flower.table import TableQuery
from celery_dynprio.monitoring.flower.terms import policy_objects
from celery_dynprio.monitoring.flower.tryout import Tryout
from celery_dynprio.operators.operations import Operations
from celery_dynprio.operators.plain import explanation_object, standing_object, turn_object
from celery_dynprio.operators.results import Listing, QueueStats
from celery_dynprio.operators.steering import Result
from celery_dynprio.operators.views import QUICK
from celery_dynprio.operators.workers import Workers, ask
from celery_dynprio.tracing.tree import trace_object

if TYPE_CHECKING:
    from celery import Celery

    from celery_dynprio.engine.ordering import Turn
    from celery_dynprio.engine.scene import Scene

#: Seconds for which figures, the whole backlog, and the workers are kept.
FIGURES: Final = 1.0
BACKLOG: Final = 3.0
WORKERS: Final = 15.0

#: Seconds that an answer waits for newer data than is kept.
PATIENCE: Final = 0.4

#: Seconds that an answer waits for newer figures, while the whole backlog may be read.
HASTE: Final = 0.25

#: Seconds that an answer waits for the first figures, without which there is none. The broker's timeouts are shorter.
FIGURES_PATIENCE: Final = 30.0

#: How many tasks are searched and sorted at most; each takes half a kilobyte of memory.
MOST_TASKS: Final = 200_000

#: How many keys are shown with their use.
MOST_KEYS: Final = 10

#: The length of the feed. There may be a hundred moves a second, so operators' actions have room of their own.
MOST_MOVES: Final = 50
MOST_DEEDS: Final = 30

#: What an operator can do to tasks, by the names of :class:`~celery_dynprio.operators.operations.Operations`.
STEERING: Final = ("bump", "hold", "release", "cancel")


@dataclass(frozen=True, slots=True)
class _Backlog:
    """All tasks that were pending at one moment (Unix seconds), or the first of them."""

    at: float
    listing: Listing


class Source:
    """All data about one app's pending tasks. The methods may be called in any thread.

    They raise :class:`~celery_dynprio.errors.BrokerUnavailableError` while the broker is away.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        # One thread does all that takes much memory or the interpreter for long, one thing at a time. Looking for a
        # task that is nowhere means waiting for workers to answer, so that has a thread of its own.
        self._reader = ThreadPoolExecutor(1, "dynprio read")
        self._workers = Kept(lambda: ask(app), WORKERS, ThreadPoolExecutor(1, "dynprio workers"))
        self._figures = Kept(self._read_figures, FIGURES, self._reader)
        self._backlog = Kept(self._read_backlog, BACKLOG, self._reader)
        self._lookups = Lookups(self._read_about)
        self._tryout = Tryout(app, self._read_scenes)

    def data(self, query: TableQuery, moves: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Figures, one page of the table, the use of keys, and the feed, of which ``moves`` are a part."""
        self._known_workers(PATIENCE)
        figures = self._figures.get(FIGURES_PATIENCE, HASTE)
        if figures is None:
            raise DynPrioError("the broker is slow: its figures are still being read")
        feed = [{"kind": "operator", **entry} for entry in figures["log"]] + [
            {"kind": "move", **move} for move in moves
        ]
        feed.sort(key=lambda entry: -entry["at"])
        shown = {name: value for name, value in figures.items() if name != "log"}
        return {**shown, "feed": feed, "table": self._table(query)}

    def about(self, task_id: str) -> Future[dict[str, Any]]:
        """Look up why a task is where it is, if it is pending, and its trace, if one is kept. Does not block.

        Raises :class:`~celery_dynprio.errors.DynPrioError` if too many tasks are being looked up already.
        """
        return self._lookups.ask(task_id)

    def policy(self) -> dict[str, Any]:
        """The policy in force, as the page shows and sends it, and the queues that it puts in order."""
        settings = self._dynprio().settings
        return {"queues": list(settings.queues), **policy_objects(settings.policy)}

    def outlook(self, queue: str, terms: str, gone: threading.Event) -> Future[dict[str, Any]]:
        """Play a queue forward under the policy in force and another one; see :class:`~.tryout.Tryout`."""
        return self._tryout.ask(self._dynprio().settings, queue, terms, gone)

    def act(self, by: str, op: str, ids: Sequence[str], changes: Mapping[str, Any], why: str) -> list[dict[str, str]]:
        """Act in the name of ``by``, and return the result for each task."""
        with self._operations(by) as operations:
            results = _carry_out(operations, op, ids, changes, why)
        self._figures.forget()
        self._backlog.forget()
        self._lookups.forget()
        return [{"id": each.id, "answer": each.answer.value, "detail": each.detail} for each in results]

    def _dynprio(self) -> DynPrio:
        found = DynPrio.of(self._app)
        if found is None:
            raise DynPrioError("this app has no DynPrio: add DynPrio(app) to its module")
        return found

    @contextmanager
    def _operations(self, by: str | None = None) -> Iterator[Operations]:
        try:
            with self._dynprio().operations(by) as operations:
                yield operations
        finally:
            close_connections()  # the user's policy, or the result backend, may use Django's ORM

    def _table(self, query: TableQuery) -> dict[str, Any]:
        if not query.selective and query.end <= QUICK:
            with self._operations() as operations:
                now = time.time()
                listing = operations.pending(limit=query.end, workers=self._known_workers())
                return self._rows(operations, listing.turns[query.start :], listing.matching, now)
        kept = self._backlog.get(PATIENCE, 0.0)
        if kept is None:
            return {"rows": [], "matching": 0, "reading": True}
        turns, matching = query.of(kept.listing.turns)
        with self._operations() as operations:
            table = self._rows(operations, turns, matching, kept.at)
        left_out = kept.listing.matching - len(kept.listing.turns)
        return {**table, "age": max(time.time() - kept.at, 0.0), "left_out": left_out}

    def _rows(self, operations: Operations, turns: Sequence[Turn], matching: int, now: float) -> dict[str, Any]:
        factors = operations.contributions(turns)
        rows = [
            {**turn_object(turn, now), "factors": [asdict(each) for each in parts]}
            for turn, parts in zip(turns, factors, strict=True)
        ]
        return {"rows": rows, "matching": matching, "reading": False, "age": 0.0, "left_out": 0}

    def _known_workers(self, patience: float = 0.0) -> Workers:
        try:
            return self._workers.get(patience, 0.0) or Workers()
        except Exception:  # noqa: BLE001 - without them no start is expected, and the broker says what is wrong
            return Workers()

    def _read_about(self, task_id: str) -> dict[str, Any]:
        with self._operations() as operations:
            try:
                explained = operations.explain(task_id, self._known_workers(PATIENCE))
                explanation, state = explanation_object(explained, time.time()), "pending"
            except NotPendingError as exc:
                explanation, state = None, f"{exc.answer} {exc.detail}".rstrip()
            trace = operations.trace(task_id)
        return {"id": task_id, "state": state, "explanation": explanation, "trace": trace and trace_object(trace)}

    def _read_scenes(self) -> list[Scene]:
        with self._operations() as operations:
            return operations.scenes(MOST_TASKS, self._known_workers(PATIENCE))

    def _read_backlog(self) -> _Backlog:
        with self._operations() as operations:
            now = time.time()
            return _Backlog(now, operations.survey(MOST_TASKS, self._known_workers()))

    def _read_figures(self) -> dict[str, Any]:
        with self._operations() as operations:
            stats = operations.stats(self._known_workers())
            log = operations.log(MOST_DEEDS)
        use = sorted(stats.use.items(), key=lambda item: -item[1])
        return {
            "at": stats.at,
            "paused": stats.paused,
            "events": self._dynprio().settings.events,
            "queues": [_queue(each) for each in stats.queues],
            "workers": len(stats.workers.slots),
            "slots": sum(stats.workers.slots.values()),
            "use": [{"key": key, "seconds": seconds} for key, seconds in use[:MOST_KEYS]],
            "use_total": sum(stats.use.values()),
            "objectives": [standing_object(each) for each in stats.objectives],
            "log": [asdict(entry) for entry in log],
        }


def _carry_out(
    operations: Operations, op: str, ids: Sequence[str], changes: Mapping[str, Any], why: str
) -> Sequence[Result]:
    if op in STEERING:
        results: Sequence[Result] = getattr(operations, op)(ids, why)
        return results
    if op == "reprioritize":
        return operations.reprioritize(ids, changes, why)
    if op == "pause":
        operations.pause(why)
    elif op == "resume":
        operations.resume(why)
    else:
        raise ArgumentError("op", op, f"use {', '.join(STEERING)}, reprioritize, pause or resume")
    return ()


def _queue(stats: QueueStats) -> dict[str, Any]:
    return {
        "queue": stats.queue,
        "depths": list(stats.depths),
        "oldest": list(stats.oldest),
        "overflow": stats.overflow,
        "held": stats.held,
        "foreign": sum(stats.foreign.values()),
        "moves": stats.moves,
        "led": stats.leader is not None,
    }
