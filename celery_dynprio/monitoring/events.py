"""Celery events for moves, and for breaches and recoveries of objectives: for ``celery events`` and other monitors.

Their types have a group of their own, because Celery's ``State`` ignores groups that it does not know. In the group
``task``, monitors built on ``State`` would take the event's name for the task's new state, which neither RECEIVED nor
STARTED replaces later, and its sender for one more worker (``celery.events.state``, Task.event and
State._create_dispatcher, the same in 5.5 to 5.7). :func:`follow` makes a ``State`` list moved tasks; the app of a
:class:`~celery_dynprio.app.DynPrio` does this with its own.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from celery.events.state import State

from celery_dynprio.hosting.connections import new_connection
from celery_dynprio.models import Move, Outcome, Place, Report, is_level
from celery_dynprio.objectives import Standing
from celery_dynprio.settings import MAX_EVENTS
from celery_dynprio.worker.sender import Sender, Store

if TYPE_CHECKING:
    from celery import Celery

#: The group of the events, and the type of the event of a move.
GROUP: Final = "dynprio"
TYPE: Final = f"{GROUP}-task-reprioritized"

#: The types of the events of objectives.
BREACHED: Final = f"{GROUP}-objective-breached"
RECOVERED: Final = f"{GROUP}-objective-recovered"


class EventSender:
    """Sends the events in a thread of its own: if the broker is away, events are dropped and no tick is delayed.

    Without ``moves``, only events of objectives are sent. At most ``rate`` moves are sent in a second. ``clock`` gives
    seconds that never go back.
    """

    def __init__(
        self,
        app: Celery,
        open_store: Callable[[], Store[Mapping[str, Any]]] | None = None,
        *,
        moves: bool = True,
        rate: int = MAX_EVENTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sender: Sender[Mapping[str, Any]] = Sender("events", open_store or (lambda: _Dispatch(app)))
        self._moves = moves
        self._rate = rate
        self._clock = clock
        self._second = clock()
        self._left = rate
        self._excess = 0

    def dropped(self) -> int:
        """Return how many events were not sent: above the rate, or while the broker was away."""
        return self._excess + self._sender.dropped

    def observe(self, report: Report) -> None:
        """Send one event for each move that was made, and for each objective that was breached or recovered."""
        now = time.time()
        for standing in report.turned:
            self._sender.put(fields_of_objective(standing, now))
        if not self._moves:
            return
        for move, outcome in zip(report.moves, report.outcomes, strict=False):
            if outcome is Outcome.MOVED:
                if self._may_send():
                    self._sender.put(fields_of(report, move, now))
                else:
                    self._excess += 1

    def failed(self, queue: str, problem: Exception) -> None:
        """Do nothing: no task was moved."""

    def close(self) -> None:
        """Send the remaining events, for a few seconds at most."""
        self._sender.stop()

    def _may_send(self) -> bool:
        now = self._clock()
        if now - self._second >= 1.0:
            self._second, self._left = now, self._rate
        self._left -= 1
        return self._left >= 0


def fields_of(report: Report, move: Move, now: float) -> dict[str, Any]:
    """Return the event of a move that was made ``now`` (Unix seconds)."""
    return {
        "type": TYPE,
        "uuid": move.task.id,
        "name": move.task.name,
        "queue": report.queue,
        "from": _place(move.source),
        "to": _place(move.target),
        "score": round(move.score, 3),
        "reason": move.reason,
        "trace_id": report.traces.get(move.task.id, ""),
        "timestamp": now,
    }


def fields_of_objective(standing: Standing, now: float) -> dict[str, Any]:
    """Return the event of an objective that was breached or recovered ``now`` (Unix seconds)."""
    objective = standing.objective
    return {
        "type": RECOVERED if standing.since is None else BREACHED,
        "objective": objective.name,
        "attained": standing.attained,
        "target": objective.target,
        "within": objective.within,
        "started": standing.started,
        "overdue": standing.overdue,
        "timestamp": now,
    }


def follow(state: Any) -> None:
    """Make a ``celery.events.state.State`` list moved tasks that it does not know yet, as PENDING.

    Nothing else about a task changes, in particular not its state. The last move is in the task's ``reprioritized``.
    """

    def moved(subject: str, event: dict[str, Any]) -> None:
        if f"{GROUP}-{subject}" != TYPE:
            return
        if event["uuid"] not in state.tasks:
            state.task_event("sent", event)  # how State itself adds a task that no worker has yet
        task = state.tasks[event["uuid"]]
        task.reprioritized = {name: event.get(name) for name in ("queue", "from", "to", "score", "reason")}

    state.handlers[GROUP] = moved


class FollowingState(State):
    """Celery's State, with :func:`follow` applied."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        follow(self)


class _Dispatch:
    """Sends events over a connection of its own, which is opened again after any error."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._connection: Any = None
        self._dispatcher: Any = None

    def add(self, entries: Sequence[Mapping[str, Any]], /) -> None:
        try:
            if self._dispatcher is None:
                self._open()
            for fields in entries:
                self._dispatcher.send(**fields)
            self._dispatcher.flush(errors=False)
        except Exception:
            self.close()
            raise

    def close(self) -> None:
        if self._connection is not None:
            self._connection.release()
        self._connection = self._dispatcher = None

    def _open(self) -> None:
        self._connection = new_connection(self._app)
        self._connection.connect()  # once: a channel made without a connection would retry forever
        self._dispatcher = self._app.events.Dispatcher(
            self._connection,
            channel=self._connection.channel(),
            hostname=f"dynprio@{socket.gethostname()}",
            buffer_while_offline=False,
            # Many events in one message, as workers send theirs.
            buffer_group={GROUP},
            buffer_limit=MAX_EVENTS,
        )


def _place(place: Place) -> str:
    return f"P{place}" if is_level(place) else "parked"
