"""What the page shows, as plain data: read from the broker in threads, and kept for a moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar
from weakref import WeakKeyDictionary

from celery_dynprio.backlogs.redis_client import RedisClient
from celery_dynprio.errors import ArgumentError, DynPrioError, NotPendingError
from celery_dynprio.models import HELD, OVERFLOW
from celery_dynprio.operations import Operations
from celery_dynprio.ordering import Turn
from celery_dynprio.spans import RedisSpans
from celery_dynprio.trace_tree import as_object
from celery_dynprio.workers import Workers, ask

if TYPE_CHECKING:
    from celery import Celery

T = TypeVar("T")

#: Seconds for which an answer serves all who look: figures, the whole backlog, and the workers.
FIGURES: Final = 1.0
BACKLOG: Final = 3.0
WORKERS: Final = 15.0

#: Entries of the feed, and keys whose use is shown.
SHOWN: Final = 30

_SORTS: Final[Mapping[str, Callable[[Turn], Any]]] = {
    "name": lambda turn: turn.task.name,
    "place": lambda turn: turn.place,
    "score": lambda turn: turn.score,
    "waited": lambda turn: turn.waited,
    "weight": lambda turn: turn.task.weight,
    "key": lambda turn: turn.task.key or "",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which part of the table is looked at."""

    search: str = ""
    sort: str = ""
    descending: bool = False
    start: int = 0
    count: int = 25


class Kept(Generic[T]):
    """A value that is read anew once it is ``age`` seconds old, by one thread at a time."""

    def __init__(self, age: float, read: Callable[[], T]) -> None:
        self._age, self._read, self._lock = age, read, threading.Lock()
        self._at, self._value = float("-inf"), None

    def get(self) -> T:
        """The value; while another thread reads it anew, the one before."""
        if time.monotonic() - self._at <= self._age and self._value is not None:
            return self._value
        if not self._lock.acquire(blocking=self._value is None):
            return self._value  # type: ignore[return-value] # not None, or the lock would have been waited for
        try:
            if self._value is None or time.monotonic() - self._at > self._age:
                self._value = self._read()  # type: ignore[assignment] # inferred from None
                self._at = time.monotonic()
            return self._value  # type: ignore[return-value]
        finally:
            self._lock.release()

    def forget(self) -> None:
        """Read it anew the next time."""
        self._at = float("-inf")


class Source:
    """What is known of one app's pending tasks."""

    _known: ClassVar[WeakKeyDictionary[Any, Source]] = WeakKeyDictionary()

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._workers = Kept[Workers](WORKERS, lambda: ask(app))
        self._figures = Kept[dict[str, Any]](FIGURES, self._read_figures)
        self._backlog = Kept[Sequence[Turn]](BACKLOG, self._read_backlog)

    @classmethod
    def of(cls, app: Celery) -> Source:
        """The one of this app."""
        return cls._known.setdefault(app, cls(app))

    def data(self, wanted: Wanted) -> dict[str, Any]:
        """Figures, one page of the table, the log and the use of keys."""
        turns, matching = self._page(wanted)
        with self._operations() as operations:
            factors = operations.contributions([turn.task for turn in turns])
        rows = [_row(turn, parts) for turn, parts in zip(turns, factors, strict=True)]
        return {**self._figures.get(), "rows": rows, "matching": matching}

    def about(self, task_id: str) -> dict[str, Any]:
        """Why a task is where it is, if it is pending, and its trace, if one is kept."""
        with self._operations() as operations:
            try:
                told: dict[str, Any] | None = asdict(operations.explain(task_id))
                state = "pending"
            except NotPendingError as exc:
                told, state = None, str(exc)
        client = RedisClient.from_app(self._app)
        try:
            trace = RedisSpans(client).read(task_id)
        finally:
            client.close()
        return {"state": state, "explanation": told, "trace": None if trace is None else as_object(trace)}

    def act(self, by: str, op: str, ids: Sequence[str], changes: Mapping[str, Any], why: str) -> dict[str, Any]:
        """Do it, in the name of ``by``."""
        with self._operations(by) as operations:
            if op in {"pause", "resume"}:
                getattr(operations, op)(why)
                results = []
            elif op in {"bump", "hold", "release", "cancel"}:
                results = getattr(operations, op)(ids, why)
            elif op == "reprioritize":
                results = operations.reprioritize(ids, changes, why)
            else:
                raise ArgumentError("op", op, "use bump, hold, release, cancel, reprioritize, pause or resume")
        self._figures.forget()
        self._backlog.forget()
        return {"results": [{"id": each.id, "answer": each.answer.value, "detail": each.detail} for each in results]}

    def _operations(self, by: str | None = None) -> Any:
        # DynPrio.of is above this; the app knows it all the same.
        dynprio = getattr(self._app, "_dynprio", None)
        if dynprio is None:
            raise DynPrioError("this app has no DynPrio: add DynPrio(app) to its module")
        return dynprio.operations(by)

    def _page(self, wanted: Wanted) -> tuple[Sequence[Turn], int]:
        end = wanted.start + wanted.count
        if not wanted.search and wanted.sort not in _SORTS:
            with self._operations() as operations:
                page = operations.pending(limit=end, workers=self._workers.get())
            return page.turns[wanted.start :], page.matching
        needle = wanted.search.lower()
        turns = [turn for turn in self._backlog.get() if not needle or _matches(turn, needle)]
        if wanted.sort in _SORTS:
            turns.sort(key=_SORTS[wanted.sort], reverse=wanted.descending)
        return turns[wanted.start : end], len(turns)

    def _read_backlog(self) -> Sequence[Turn]:
        operations: Operations
        with self._operations() as operations:
            return operations.pending(workers=Workers()).turns

    def _read_figures(self) -> dict[str, Any]:
        with self._operations() as operations:
            stats = operations.stats(self._workers.get())
            log = operations.log(SHOWN)
        use = sorted(stats.use.items(), key=lambda item: -item[1])[:SHOWN]
        return {
            "at": stats.at,
            "paused": stats.paused,
            "queues": [
                {
                    "queue": each.queue,
                    "depths": list(each.depths),
                    "oldest": list(each.oldest),
                    "overflow": each.overflow,
                    "held": each.held,
                    "moves": each.moves,
                }
                for each in stats.queues
            ],
            "use": use,
            "log": [asdict(entry) for entry in log],
        }


def _matches(turn: Turn, needle: str) -> bool:
    task = turn.task
    return needle in task.name.lower() or needle in task.id.lower() or needle in (task.key or "").lower()


def _row(turn: Turn, parts: Sequence[Any]) -> dict[str, Any]:
    task = turn.task
    return {
        "id": task.id,
        "name": task.name,
        "queue": turn.queue,
        "place": {HELD: "held", OVERFLOW: "overflow"}.get(turn.place, f"P{turn.place}"),
        "score": turn.score,
        "waited": turn.waited,
        "weight": task.weight,
        "deadline": task.deadline,
        "key": task.key,
        "pinned": task.pinned,
        "factors": [asdict(part) for part in parts],
    }
