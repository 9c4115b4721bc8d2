"""Reads what waits in one queue, and puts it in the order in which it is expected to run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, tee

from celery_dynprio import message
from celery_dynprio.engine.guard import Yielding
from celery_dynprio.engine.ordering import Turn, order, starts
from celery_dynprio.models import HELD, OVERFLOW, Context, PendingTask, Place, Snapshot
from celery_dynprio.policies.base import Scorer
from celery_dynprio.ports.broker import Scan
from celery_dynprio.tracing.runs import span_of_headers


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits in one queue."""

    #: For each level the tasks, the next to run first.
    levels: Sequence[Sequence[PendingTask]]
    overflow: Mapping[str, PendingTask] = field(default_factory=dict)
    held: Collection[PendingTask] = ()
    #: The ids of those whose messages carry the trace that was looked for.
    traced: Collection[str] = ()
    #: See :class:`~celery_dynprio.operators.results.Listing`.
    missed: int = 0

    @property
    def reachable(self) -> Iterator[PendingTask]:
        """What waits for a worker: all but what is held."""
        return chain(*self.levels, self.overflow.values())


def read_waiting(
    scan: Scan,
    levels: Collection[int],
    trace: str | None = None,
    observe: Callable[[Place, PendingTask, bool], None] = lambda _place, _task, _traced: None,
) -> Waiting:
    """Read what a scan yields, without the messages: of a deep backlog they are most of what would be kept.

    ``trace`` is an id to look for in the messages. ``observe`` is called with each place and task while the scan is at
    it, and with whether its message carries the trace.
    """
    front: list[list[PendingTask]] = [[] for _ in levels]
    late: list[list[PendingTask]] = [[] for _ in levels]
    parked: Mapping[Place, dict[str, PendingTask]] = {OVERFLOW: {}, HELD: {}}
    traced, first_look = set(), set()
    for place, task, raw in scan:
        if place in parked:  # a held task also beside another message with its id
            parked[place][task.id] = task
        elif scan.look == 1:
            front[place].append(task)
            first_look.add(task.id)
        elif task.id not in first_look:
            late[place].append(task)
        carries_trace = trace is not None and trace.encode() in raw and _trace_of(raw) == trace
        if carries_trace:
            traced.add(task.id)
        observe(place, task, carries_trace)
    # A task that was moved during the scan came to the back of its level.
    once: set[str] = set()
    ordered = [
        list(_not_yet(once, (*reversed(tasks), *reversed(moved)))) for tasks, moved in zip(front, late, strict=True)
    ]
    return Waiting(ordered, parked[OVERFLOW], list(parked[HELD].values()), traced, scan.missed)


def turns_of(
    queue: str, waiting: Waiting, score: Scorer, context: Context, *, slots: int, yielding: Yielding
) -> list[Turn]:
    """Put all that waits in one queue in order, with the expected starts if ``slots`` tasks run at once."""
    levels = tuple(map(tuple, waiting.levels))
    snapshot = Snapshot(levels, tuple(map(len, levels)), waiting.overflow)

    def stays(turn: Turn) -> bool:
        return turn.place == HELD or (turn.place == OVERFLOW and yielding.yields(turn.task))

    turns, again = tee(
        order(queue, snapshot, waiting.held, score, context.now, yields=yielding.yields, ahead=context.ahead)
    )
    names = (turn.task.name for turn in again if not stays(turn))
    expected = starts(names, context.runtimes, slots, context.now)
    return [turn if stays(turn) else _expected(turn, next(expected)) for turn in turns]


def _expected(turn: Turn, at: float | None) -> Turn:
    return turn if at is None else replace(turn, expected=at)


def _not_yet(seen: set[str], tasks: Iterable[PendingTask]) -> Iterator[PendingTask]:
    """Those tasks whose ids are not in ``seen`` yet."""
    for task in tasks:
        if task.id not in seen:
            seen.add(task.id)
            yield task


def _trace_of(raw: bytes) -> str:
    return span_of_headers(message.headers_of(raw)).trace_id
