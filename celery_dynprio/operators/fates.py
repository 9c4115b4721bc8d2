"""What became of tasks that are not pending any more: a worker has them, they are finished, or nobody knows them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from celery.result import AsyncResult
from celery.states import READY_STATES, RETRY, REVOKED, STARTED

from celery_dynprio.operators.moments import moment
from celery_dynprio.operators.refusals import unless_refused
from celery_dynprio.operators.workers import ANSWER_TIMEOUT, Question, answers
from celery_dynprio.ports.broker import Broker

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger("celery_dynprio.fates")

#: Seconds before its time in which a task may start although workers are told to discard it.
NEAR: Final = 2.0

#: Of so many tasks at most the traces are looked through, which takes a while for each.
MOST_TRACED: Final = 20


class Answer(Enum):
    """The answer to an operator, for one task."""

    DONE = "done"
    #: A worker runs it.
    RUNNING = "already running"
    #: A worker keeps it until its time has come.
    SCHEDULED = "scheduled"
    #: A worker has taken it, and it waits there for a free slot, or for its next try.
    RESERVED = "reserved"
    FINISHED = "already finished"
    CANCELLED = "already cancelled"
    #: The workers were told to discard it, should one receive it: nobody knows where it is, or whether it runs.
    REVOKED = "revoked"
    NOT_FOUND = "not found"
    #: It is pending, but others moved it each time before it could be done.
    BUSY = "busy"


#: A task that nobody but a worker can have.
AT_WORKERS: Final = frozenset((Answer.SCHEDULED, Answer.RESERVED))


_BY_STATE: Final = {STARTED: Answer.RUNNING, RETRY: Answer.RESERVED, REVOKED: Answer.CANCELLED}


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a task that is not pending any more."""

    answer: Answer
    #: Where it is and until when, as far as known: "at worker celery@web1 until 2026-11-25 08:32:20 UTC".
    detail: str = ""
    #: Whether workers that answer would discard it for certain: its time is not near.
    sure: bool = False


class Fates:
    """Asks, in this order: what workers have not acknowledged, what is being cancelled, results, workers, traces.

    ``clock`` gives Unix seconds.
    """

    def __init__(
        self, app: Celery, broker: Broker, queues: Sequence[str], clock: Callable[[], float] = time.time
    ) -> None:
        self._app = app
        self._broker = broker
        self._queues = queues
        self._clock = clock

    def of(self, ids: Sequence[str]) -> dict[str, Fate]:
        """Tell what became of each of these, none of which is pending."""
        taken = self._unacknowledged(ids)
        fates = {task_id: fate for task_id, fate in self._cancelled(ids).items() if task_id not in taken}
        fates |= self._by_result([task_id for task_id in ids if task_id not in fates], taken)
        fates |= self._at_workers([task_id for task_id in ids if task_id not in fates], taken)
        fates |= self._by_trace([task_id for task_id in ids if task_id not in fates])
        return {task_id: fates.get(task_id, Fate(Answer.NOT_FOUND)) for task_id in ids}

    def at_workers(self, ids: Sequence[str]) -> dict[str, Fate]:
        """Tell which of these workers have, whatever else is known of them."""
        return self._at_workers(ids, self._unacknowledged(ids)) if ids else {}

    def ids_with(self, start: str) -> set[str]:
        """The ids that begin with this text, of what workers have not acknowledged."""
        ids = {headers.get("id") for headers in self._broker.unacknowledged()}
        return {task_id for task_id in ids if isinstance(task_id, str) and task_id.startswith(start)}

    def _unacknowledged(self, ids: Sequence[str]) -> dict[str, float | None]:
        """Those of these tasks that workers have not acknowledged, each with its ETA in Unix seconds, if it has one."""
        wanted = frozenset(ids)
        found: dict[str, float | None] = {}
        for headers in self._broker.unacknowledged():
            task_id = headers.get("id")
            if isinstance(task_id, str) and task_id in wanted:
                found[task_id] = self._seconds(headers.get("eta"))
        return found

    def _seconds(self, eta: object) -> float | None:
        """The ETA of a message in Unix seconds; None if it has none."""
        if not isinstance(eta, str):
            return None
        try:
            at = datetime.fromisoformat(eta.replace("Z", "+00:00"))
            zone = timezone.utc if self._app.conf.enable_utc else self._app.timezone
            return (at if at.tzinfo else at.replace(tzinfo=zone)).timestamp()
        except (ValueError, OverflowError):
            return None

    def _cancelled(self, ids: Sequence[str]) -> dict[str, Fate]:
        """Those that an operator has taken away, and whose results do not tell of it yet."""
        backlogs = (self._broker.backlog(queue) for queue in self._queues)
        return {task_id: Fate(Answer.CANCELLED) for backlog in backlogs for task_id in backlog.cancelled(ids)}

    def _by_result(self, ids: Sequence[str], taken: Collection[str]) -> dict[str, Fate]:
        """Of a task that a worker has taken (``taken``) only a start or a revocation counts: the rest may be older."""
        try:
            states = {task_id: AsyncResult(task_id, app=self._app).state for task_id in ids}
        except Exception as exc:  # noqa: BLE001 - each result backend has its own, and there may be none at all
            logger.debug("no result tells what became of the tasks: %r", exc)
            return {}
        fates = {}
        for task_id, state in states.items():
            if state == REVOKED:
                fates[task_id] = Fate(Answer.CANCELLED)
            elif state == STARTED:
                fates[task_id] = Fate(Answer.RUNNING)
            elif task_id in taken:
                continue
            elif state == RETRY:
                fates[task_id] = Fate(Answer.RESERVED, "for its next try")
            elif state in READY_STATES:
                fates[task_id] = Fate(Answer.FINISHED)
        return fates

    def _at_workers(self, ids: Sequence[str], taken: Mapping[str, float | None]) -> dict[str, Fate]:
        if not ids:
            return {}
        nothing: list[Mapping[str, Any]] = [{}, {}]
        question = Question("query_task", {"ids": list(ids)})
        up, reports = unless_refused(
            self._broker.errors,
            lambda: answers(self._app, ANSWER_TIMEOUT, "ping", question),
            nothing,
        )
        fates = {task_id: self._fate("", "", taken[task_id], up) for task_id in ids if task_id in taken}
        for worker, tasks in reports.items():
            for task_id, report in tasks.items() if isinstance(tasks, Mapping) else ():
                state = report[0] if isinstance(report, (list, tuple)) and report else ""
                fates[task_id] = self._fate(str(state), worker, taken.get(task_id), up)
        return fates

    def _fate(self, state: str, worker: str, eta: float | None, up: Collection[str]) -> Fate:
        """The fate of a task in this state of a worker's ("" if none tells, of those that are ``up``)."""
        where = f"at worker {worker}" if worker else "at a worker"
        if state == "active":
            return Fate(Answer.RUNNING, where)
        # Workers before Celery 5.6 tell of no task that waits for its time.
        if state == "scheduled" or (eta is not None and eta > self._clock()):
            until = "" if eta is None else f" until {moment(eta, self._app.timezone)}"
            far = eta is not None and eta - self._clock() > NEAR
            return Fate(Answer.SCHEDULED, where + until, sure=far and bool(up))
        return Fate(Answer.RESERVED, where)

    def _by_trace(self, ids: Sequence[str]) -> dict[str, Fate]:
        spans, fates = self._broker.stores.spans(), {}
        for task_id in ids[:MOST_TRACED]:
            trace = spans.read(task_id)
            states = [span.state for span in trace.spans if span.task_id == task_id] if trace else []
            if states:
                fates[task_id] = Fate(_BY_STATE.get(states[-1], Answer.FINISHED))
        return fates
