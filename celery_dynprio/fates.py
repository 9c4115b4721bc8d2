"""What became of tasks that are not pending any more: a worker has them, they are finished, or nobody knows them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from celery.result import AsyncResult
from celery.states import READY_STATES, RETRY, STARTED

from celery_dynprio.backlogs.redis import RedisBacklog
from celery_dynprio.backlogs.redis_client import RedisClient
from celery_dynprio.message import described
from celery_dynprio.spans import RedisSpans
from celery_dynprio.workers import ANSWER_TIMEOUT, answers

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger(__name__)

#: One HSCAN of what workers have not acknowledged asks for about so many messages.
SCAN_COUNT: Final = 200

#: Of so many tasks at most the traces are looked through, which takes a while for each.
MOST_TRACED: Final = 20


class Answer(Enum):
    """What an operator is told of one task."""

    DONE = "done"
    #: A worker has it: it runs, or waits there for its turn, its time or its next try.
    RUNNING = "already running"
    FINISHED = "already finished"
    NOT_FOUND = "not found"
    #: It is pending, but others moved it each time before it could be done.
    BUSY = "busy"


class Fates:
    """Asks, in this order: what workers have not acknowledged, what is being cancelled, results, workers, traces."""

    def __init__(self, app: Celery, client: RedisClient, queues: Sequence[str]) -> None:
        self._app = app
        self._client = client
        self._queues = queues

    def of(self, ids: Sequence[str]) -> dict[str, Answer]:
        """Tell what became of each of these, none of which is pending."""
        fates = dict.fromkeys(self._unacknowledged(set(ids)), Answer.RUNNING)
        for ask in (self._cancelled, self._by_result, self._by_workers, self._by_trace):
            left = [task_id for task_id in ids if task_id not in fates]
            if not left:
                break
            fates |= ask(left)
        return {task_id: fates.get(task_id, Answer.NOT_FOUND) for task_id in ids}

    def _unacknowledged(self, ids: set[str]) -> Iterable[str]:
        needles = [(json.dumps(task_id)[1:-1].encode(), task_id) for task_id in ids]
        for _, raw in self._client.redis.hscan_iter(self._client.unacked_key, count=SCAN_COUNT):
            yield from (task_id for needle, task_id in needles if needle in raw and _id(raw) == task_id)

    def _cancelled(self, ids: Sequence[str]) -> dict[str, Answer]:
        """Those that an operator has taken away, and whose results do not tell of it yet."""
        backlogs = (RedisBacklog(self._client, queue) for queue in self._queues)
        return {task_id: Answer.FINISHED for backlog in backlogs for task_id in backlog.cancelled(ids)}

    def _by_result(self, ids: Sequence[str]) -> dict[str, Answer]:
        try:
            states = {task_id: AsyncResult(task_id, app=self._app).state for task_id in ids}
        except Exception as exc:  # noqa: BLE001 - each result backend has its own, and there may be none at all
            logger.debug("no result tells what became of the tasks: %r", exc)
            return {}
        return {
            task_id: Answer.FINISHED if state in READY_STATES else Answer.RUNNING
            for task_id, state in states.items()
            if state in READY_STATES or state in {STARTED, RETRY}
        }

    def _by_workers(self, ids: Sequence[str]) -> dict[str, Answer]:
        _, known = answers(self._app, ANSWER_TIMEOUT, "ping", "query_task", {"ids": list(ids)})
        return {task_id: Answer.RUNNING for tasks in known.values() for task_id in tasks}

    def _by_trace(self, ids: Sequence[str]) -> dict[str, Answer]:
        spans, fates = RedisSpans(self._client), {}
        for task_id in ids[:MOST_TRACED]:
            trace = spans.read(task_id)
            states = [span.state for span in trace.spans if span.task_id == task_id] if trace else []
            if states:
                fates[task_id] = Answer.RUNNING if {STARTED, RETRY}.issuperset(states[-1:]) else Answer.FINISHED
        return fates


def _id(raw: bytes) -> Any:
    try:
        return described(json.loads(raw)[0]).get("id")
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
