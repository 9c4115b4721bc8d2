"""The log lines of the reprioritizer: what each tick did, and why one failed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import chain
from typing import Final

from celery_dynprio.errors import BrokerRefusedError, BrokerUnavailableError
from celery_dynprio.message import MAX_ID
from celery_dynprio.models import OVERFLOW, Outcome, Report, Role, place_name
from celery_dynprio.ports.broker import BrokerErrors
from celery_dynprio.untrusted import clean

logger = logging.getLogger("celery_dynprio.reprioritizer")

#: Moves that a dry run lists at a tick.
MOST_LISTED: Final = 20


class TickLog:
    """Logs each tick that changed something, and the first after a failure; the others at DEBUG."""

    def __init__(self, errors: BrokerErrors) -> None:
        self._errors = errors
        self._last: dict[str, object] = {}

    def observe(self, report: Report) -> None:
        """Log the report."""
        state = report.role, bool(report.held_back), frozenset(report.foreign)
        news = bool(report.moves or report.spilled) or state != self._last.get(report.queue)
        self._last[report.queue] = state
        logger.log(logging.INFO if news else logging.DEBUG, "dynprio %s", describe(report))
        if report.role is Role.DRY_RUN:
            for line in planned(report):
                logger.info("dynprio %s: %s", report.queue, line)

    def failed(self, queue: str, problem: Exception) -> None:
        """Log why a tick failed; a broker that is away, or refuses something, needs no traceback."""
        self._last.pop(queue, None)
        if isinstance(problem, self._errors.any):
            problem = self._errors.explain(problem)
        if isinstance(problem, BrokerRefusedError):
            logger.error("dynprio %s: %s; trying again", queue, problem)
        elif isinstance(problem, BrokerUnavailableError):
            logger.warning("dynprio %s: %s; trying again", queue, problem)
        else:
            logger.error("dynprio %s: a tick failed, trying again", queue, exc_info=problem)


def describe(report: Report) -> str:
    """One line that says what a tick did."""
    if report.role in {Role.STANDBY, Role.PAUSED}:
        return f"{report.queue}: {report.role.value}"
    parts = [*_moved(report), *_left(report)]
    return f"{report.queue}: {', '.join(parts)}, in {report.seconds * 1000:.0f} ms"


def planned(report: Report) -> Iterator[str]:
    """Lines that say what a dry run would move, what matters most first."""
    for move in report.moves[:MOST_LISTED]:
        task = f"{clean(move.task.name)}[{clean(move.task.id, MAX_ID)}]"
        places = f"from {place_name(move.source)} to {place_name(move.target)}"
        yield f"would move {task} {places}: {move.reason}, score {move.score:.3f}"
    if len(report.moves) > MOST_LISTED:
        yield f"would move {len(report.moves) - MOST_LISTED:,} more"


def _moved(report: Report) -> Iterator[str]:
    if report.role is Role.DRY_RUN:
        yield f"dry run, read {report.read} of {report.front}"
        yield f"would move {len(report.moves)}"
        tasks = chain.from_iterable(report.snapshot.levels if report.snapshot else ())
        if pinned := sum(task.pinned is not None for task in tasks):
            yield f"{pinned} pinned by a priority of their own"
        return
    yield f"read {report.read} of {report.front}"
    yield f"moved {report.outcomes.count(Outcome.MOVED)}"
    yield f"parked {report.spilled + sum(move.target == OVERFLOW for move in report.moves)}"


def _left(report: Report) -> Iterator[str]:
    """What stays where it is."""
    if report.overflow or report.held:
        yield f"overflow {report.overflow}, held {report.held}"
    if report.held_back:
        yield f"held back {report.held_back}"
    if report.deferred:
        yield f"deferred {report.deferred}"
    if report.foreign:
        reasons = "; ".join(f"{reason}: {count}" for reason, count in report.foreign.items())
        yield f"left alone {sum(report.foreign.values())} ({reasons})"
