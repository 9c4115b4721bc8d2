"""The loop around the ticks: it goes on whatever fails, and lets go of everything at the end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from typing import Final

from celery_dynprio.complaints import Complaints
from celery_dynprio.engine.pace import Occupied, Pace
from celery_dynprio.engine.sharing import Sharing
from celery_dynprio.engine.tick import Reprioritizer
from celery_dynprio.engine.ticklog import TickLog
from celery_dynprio.models import Report
from celery_dynprio.ports.broker import BrokerErrors

logger = logging.getLogger("celery_dynprio.reprioritizer")

#: Seconds to wait after a failed tick: the first, doubled each time, and the longest.
FIRST_BACKOFF: Final = 0.5
LONGEST_BACKOFF: Final = 10.0

#: Seconds that the hooks of objectives may take at the end.
HOOK_TIMEOUT: Final = 2.0


def serve(
    reprioritizers: Sequence[Reprioritizer],
    interval: float,
    stop: threading.Event,
    observe: Callable[[Report], None] | None = None,
    finished: Callable[[Sequence[Report]], bool] = lambda _: False,
    *,
    errors: BrokerErrors,
    failed: Callable[[str, Exception], None] | None = None,
    clean_up: Callable[[], object] = lambda: None,
    occupied: Occupied | None = None,
    sharing: Sharing | None = None,
) -> None:
    """Tick until ``stop`` is set, or ``finished`` returns true for the last reports of all queues.

    ``interval`` (seconds) is the longest time between two ticks of a queue in which something waits; while ticks cost
    little, they come sooner: see :class:`~celery_dynprio.engine.pace.Pace`, as for ``occupied``. ``sharing`` tells
    which of the queues are this process's part; None: all.
    ``observe`` is called with each report. Nothing that happens in a tick ends the loop: ``failed`` is called with the
    queue and the problem, and the tick is tried again after a growing pause. Where they are None, both are logged.
    ``clean_up`` is called after each round of ticks, which run the user's code. Everything is released at the end.
    """
    log = TickLog(errors)
    observe, failed = observe or log.observe, failed or log.failed
    keeper = next((each.keeper for each in reprioritizers if each.keeper), None)
    failures, pace = 0, Pace(interval, occupied)
    complain = Complaints(logger, "the queues could not be shared out: %r")
    with keeper.working() if keeper else nullcontext():
        try:
            while not stop.is_set():
                began = time.monotonic()
                mine, others = _parts(sharing, reprioritizers, complain)
                due = pace.due(mine)
                reports, trouble = _round([(each, each.tick) for each in due], stop, observe, failed)
                pace.note(due, reports)
                pace.note(others, _round([(each, each.stand_by) for each in others], stop, observe, failed)[0])
                for report in pace.idle():
                    observe(report)
                clean_up()
                if finished(pace.reports):
                    break
                failures = failures + 1 if trouble else 0
                took = time.monotonic() - began
                pause = max((_backoff(failures) if failures else pace.pause(took)) - took, 0.0)
                if keeper:
                    keeper.rest(pause)
                stop.wait(pause)
        finally:
            _close(reprioritizers, sharing, errors)
            _await_hooks(reprioritizers)


def _round(
    steps: Sequence[tuple[Reprioritizer, Callable[[], Report]]],
    stop: threading.Event,
    observe: Callable[[Report], None],
    failed: Callable[[str, Exception], None],
) -> tuple[list[Report], bool]:
    """Take one step for each queue, a tick mostly; return the reports, and whether anything failed."""
    reports, trouble = [], False
    for reprioritizer, step in steps:
        if stop.is_set():
            break
        try:
            report = step()
            observe(report)
            reports.append(report)
        except Exception as exc:  # noqa: BLE001 - one queue's trouble must not stop the others
            trouble = True
            failed(reprioritizer.backlog.queue, exc)
    return reports, trouble


def _backoff(failures: int) -> float:
    """Return the seconds from the beginning of one round to the next, after so many failed rounds in a row."""
    return min(FIRST_BACKOFF * 2.0 ** (failures - 1), LONGEST_BACKOFF)


def _parts(
    sharing: Sharing | None, reprioritizers: Sequence[Reprioritizer], complain: Complaints
) -> tuple[Sequence[Reprioritizer], Sequence[Reprioritizer]]:
    """Return those that may tick, and those that stand by; where that cannot be told, all try."""
    if sharing is None:
        return reprioritizers, ()
    try:
        return sharing.look(reprioritizers)
    except Exception as exc:  # noqa: BLE001 - if the broker is away, the ticks tell so as well
        complain(exc)
        return reprioritizers, ()


def _close(reprioritizers: Sequence[Reprioritizer], sharing: Sharing | None, errors: BrokerErrors) -> None:
    for reprioritizer in reprioritizers:
        try:
            reprioritizer.close()
        except errors.any as exc:
            queue = reprioritizer.backlog.queue
            logger.warning("%s: the lease could not be given back and expires: %s", queue, exc)
    if sharing is not None:
        with suppress(*errors.any):
            sharing.leave()


def _await_hooks(reprioritizers: Sequence[Reprioritizer]) -> None:
    until = time.monotonic() + HOOK_TIMEOUT
    for guard in filter(None, (reprioritizer.guard for reprioritizer in reprioritizers)):
        guard.close(max(until - time.monotonic(), 0.0))
