"""Which tasks a filter selects, and where each was seen, so that an operation need not look for them again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from celery_dynprio.models import PendingTask, Place
from celery_dynprio.ports.broker import Backlog, Found, Scan

#: So many messages of one queue are kept at most, until the operation: each takes memory. More are looked for again.
MOST_KEPT: Final = 20_000


class Sightings:
    """Where the selected tasks of one queue were seen during a scan; ``selects`` takes what :meth:`observe` takes.

    What an operation does is done to all messages with an id. So an id is *unsure*, and has to be looked for, if
    several messages may have it, or if its task was moved during the scan.
    """

    def __init__(self, scan: Scan, selects: Callable[[Place, PendingTask, bool], bool]) -> None:
        self._scan = scan
        self._selects = selects
        self._look = 0
        self._ids: set[str] = set()  # of the present look
        self._found: dict[str, Found] = {}
        self._unsure: set[str] = set()

    def observe(self, place: Place, task: PendingTask, traced: bool) -> None:  # noqa: FBT001 - as the filter takes it
        """Note the place of the task that the scan is at."""
        if self._scan.look != self._look:
            self._look = self._scan.look
            self._ids.clear()
        earlier = self._found.get(task.id)
        if task.id in self._ids or (earlier is not None and earlier.place != place):
            self._unsure.add(task.id)
        self._ids.add(task.id)
        if not self._selects(place, task, traced):
            return
        if earlier is None and len(self._found) >= MOST_KEPT:
            self._unsure.add(task.id)
            return
        self._found[task.id] = Found(task, place, 0)
        self._scan.keep()

    def find(self, backlog: Backlog, ids: Collection[str], now: float) -> Mapping[str, Sequence[Found]]:
        """Return what :meth:`~celery_dynprio.ports.broker.Backlog.find` does, looking only for what is unsure."""
        unsure = [task_id for task_id in ids if task_id in self._unsure]
        sure = {
            task_id: [self._found[task_id]] for task_id in ids if task_id in self._found and task_id not in self._unsure
        }
        return {**sure, **backlog.find(unsure, now)} if unsure else sure


@dataclass(frozen=True, slots=True)
class Selection:
    """The tasks that a filter selects, in the order in which they are expected to run."""

    ids: Sequence[str]
    #: How many tasks match; more than are selected if a limit was given.
    matching: int
    #: See :class:`~celery_dynprio.operators.results.Listing`.
    missed: int = 0
    #: By queue; in others, all ids have to be looked for.
    sightings: Mapping[str, Sightings] = field(default_factory=dict)

    @classmethod
    def of(cls, ids: Sequence[str]) -> Selection:
        """Return the tasks with these ids, wherever they are."""
        return cls(ids, len(ids))
