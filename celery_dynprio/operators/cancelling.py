"""Publishes the ends of cancelled tasks, also of those whose operator died first."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from celery_dynprio import message
from celery_dynprio.models import CANCELLED
from celery_dynprio.operators.fates import AT_WORKERS, Answer, Fate
from celery_dynprio.operators.refusals import unless_refused
from celery_dynprio.operators.revocation import WorkerHooks, revoke
from celery_dynprio.operators.steering import Result, results_of, results_once_revoked
from celery_dynprio.operators.workers import tell
from celery_dynprio.ports.broker import Backlog, Broker

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger("celery_dynprio.operations")

#: Seconds after which a cancelled task whose end was not published belongs to an operator who died: a live one gives a
#: sign of life more often than that.
ABANDONED: Final = 30.0
SIGN_INTERVAL: Final = 5.0

#: How many tasks of dead operators are looked at in one go, and seconds after which no more of them are begun.
SLICE: Final = 500
SLICE_SECONDS: Final = 0.5

#: Seconds until the next try to publish an end that could not be published.
RETRY: Final = 60.0

#: A failed try that took longer than this (seconds) means that the result backend is away: none is made for RETRY.
AWAY: Final = 1.0


class Cancelling:
    """What follows once tasks are in the cancelled place of their queue.

    ``by`` is the operator, ``clock`` gives Unix seconds; ``hooks`` are as in
    :class:`~celery_dynprio.operators.operations.Operations`.
    """

    def __init__(
        self,
        app: Celery,
        broker: Broker,
        backlogs: Mapping[str, Backlog],
        *,
        by: str,
        clock: Callable[[], float],
        hooks: WorkerHooks,
    ) -> None:
        self._app = app
        self._broker = broker
        self._backlogs = backlogs
        self._by = by
        self._clock = clock
        self._hooks = hooks
        self._cancellations = broker.stores.cancellations()
        self._next_sign = 0.0
        self._retries: dict[str, float] = {}
        self._away_until = 0.0

    def show_life(self) -> None:
        """Keep leaders from publishing the ends that this process is about to publish."""
        if time.monotonic() >= self._next_sign:
            self._next_sign = time.monotonic() + SIGN_INTERVAL
            try:
                self._cancellations.show_life(self._by, ABANDONED)
            except self._broker.errors.any as exc:  # at worst an end is published twice
                logger.warning("could not note that tasks are being cancelled here: %s", exc)

    def publish_end(self, queue: str, task_id: str, messages: int = 1) -> str:
        """Publish the end of a task, once for all ``messages`` with its id; return the problem, or ""."""
        backlog = self._backlogs[queue]
        raws = backlog.cancelled_messages(task_id, messages)
        if not raws:  # another process published it meanwhile
            return ""
        try:
            revoke(self._app, self._broker, task_id, next(iter(raws.values())), self._hooks)
        except Exception as exc:  # noqa: BLE001 - each result backend has its own
            logger.warning("task %s is cancelled, but nobody could be told: %r", task_id, exc)
            return f"removed; its result becomes REVOKED once the result backend answers: {exc}"
        for ref in raws:
            backlog.discard(ref, CANCELLED)
        return ""

    def discard_at_workers(self, fates: Mapping[str, Fate]) -> list[Result]:
        """Have the workers discard those of these tasks that may yet start there; return the results for all."""
        ids = [task_id for task_id, fate in fates.items() if fate.answer in {*AT_WORKERS, Answer.NOT_FOUND}]

        def revoke_there() -> list[Result]:
            if ids:
                tell(self._app, "revoke", task_id=ids)
            return results_once_revoked(fates)

        return unless_refused(self._broker.errors, revoke_there, results_of(fates))

    def finish(self) -> int:
        """Publish the ends of some tasks whose operator died; see :meth:`~.operations.Operations.finish`."""
        now = time.monotonic()
        if now < self._away_until or self._cancellations.under_way():
            return 0
        tried = finished = 0
        until = now + SLICE_SECONDS
        for queue in self._backlogs:
            # Those that failed before come last: they may fail again, and take the others' time.
            for task_id, messages in sorted(self._abandoned(queue).items(), key=lambda each: each[0] in self._retries):
                if (tried and time.monotonic() > until) or time.monotonic() < self._away_until:
                    break
                tried += 1
                finished += self._retry(queue, task_id, messages)
        self.flush()
        return finished

    def flush(self) -> None:
        """Let the traces of cancelled tasks be kept before this process ends."""
        self._hooks.flush()

    def _retry(self, queue: str, task_id: str, messages: int) -> bool:
        """Publish the end of a task that a dead operator cancelled; if that fails, note when to try again."""
        began = time.monotonic()
        if not self.publish_end(queue, task_id, messages):
            self._retries.pop(task_id, None)
            return True
        now = time.monotonic()
        self._retries[task_id] = now + RETRY
        if now - began > AWAY:
            self._away_until = now + RETRY
        return False

    def _abandoned(self, queue: str) -> Counter[str]:
        """Some of the cancelled tasks of one queue whose operator died, and how many messages each has."""
        now, timer = self._clock(), time.monotonic()
        abandoned = Counter[str]()
        for task, raw in self._backlogs[queue].parked_messages(CANCELLED, now):
            moves = message.moves_of(message.headers_of(raw).get(message.HEADER))
            if (not moves or now - moves[-1].at > ABANDONED) and self._retries.get(task.id, timer) <= timer:
                abandoned[task.id] += 1
            if len(abandoned) >= SLICE:
                break
        return abandoned
