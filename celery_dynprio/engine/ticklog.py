"""The log lines of the reprioritizer: what each tick did, and why one failed."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Final, NamedTuple

from celery_dynprio.errors import BrokerRefusedError, BrokerUnavailableError
from celery_dynprio.message import MAX_ID
from celery_dynprio.models import OVERFLOW, Outcome, Report, Role, place_name
from celery_dynprio.ports.broker import BrokerErrors
from celery_dynprio.untrusted import clean

logger = logging.getLogger("celery_dynprio.reprioritizer")

#: Seconds between two lines about the changes in one queue.
LINE_INTERVAL: Final = 1.0

#: Moves that a dry run lists at a tick.
MOST_LISTED: Final = 20


class Changes(NamedTuple):
    """How many tasks were moved, and how many of them were parked."""

    moved: int = 0
    parked: int = 0

    @classmethod
    def of(cls, report: Report) -> Changes:
        """Return those of one tick."""
        parked = report.spilled + sum(move.target == OVERFLOW for move in report.moves)
        return cls(report.outcomes.count(Outcome.MOVED), parked)

    def plus(self, other: Changes) -> Changes:
        """Return both."""
        return Changes(self.moved + other.moved, self.parked + other.parked)


class TickLog:
    """Logs ticks that changed something, of each queue in one line a second at most, and the first after a failure.

    Everything else is logged at DEBUG. ``clock`` gives seconds that never go back.
    """

    def __init__(self, errors: BrokerErrors, clock: Callable[[], float] = time.monotonic) -> None:
        self._errors = errors
        self._clock = clock
        self._last: dict[str, object] = {}
        #: When the last line at INFO was logged, and what was changed since.
        self._logged: dict[str, float] = {}
        self._untold: dict[str, Changes] = {}

    def observe(self, report: Report) -> None:
        """Log the report."""
        state = report.role, bool(report.held_back), frozenset(report.foreign)
        news = state != self._last.get(report.queue)
        self._last[report.queue] = state
        earlier, now = self._untold.pop(report.queue, None), self._clock()
        changed = bool(earlier or report.moves or report.spilled)
        if news or (changed and now - self._logged.get(report.queue, -math.inf) >= LINE_INTERVAL):
            self._logged[report.queue] = now
            logger.info("dynprio %s", describe(report, earlier or Changes()))
        else:
            if changed:
                self._untold[report.queue] = (earlier or Changes()).plus(Changes.of(report))
            logger.debug("dynprio %s", describe(report))
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


def describe(report: Report, earlier: Changes = Changes()) -> str:  # noqa: B008 - frozen
    """One line that says what a tick did, and those before it that no line told of."""
    if report.role in {Role.STANDBY, Role.PAUSED}:
        return f"{report.queue}: {report.role.value}"
    parts = [*_moved(report, earlier), *_left(report)]
    return f"{report.queue}: {', '.join(parts)}, in {report.seconds * 1000:.0f} ms"


def planned(report: Report) -> Iterator[str]:
    """Lines that say what a dry run would move, what matters most first."""
    for move in report.moves[:MOST_LISTED]:
        task = f"{clean(move.task.name)}[{clean(move.task.id, MAX_ID)}]"
        places = f"from {place_name(move.source)} to {place_name(move.target)}"
        yield f"would move {task} {places}: {move.reason}, score {move.score:.3f}"
    if len(report.moves) > MOST_LISTED:
        yield f"would move {len(report.moves) - MOST_LISTED:,} more"


def _moved(report: Report, earlier: Changes) -> Iterator[str]:
    if report.role is Role.DRY_RUN:
        yield f"dry run, read {report.read} of {report.front}"
        yield f"would move {len(report.moves)}"
        tasks = chain.from_iterable(report.snapshot.levels if report.snapshot else ())
        if pinned := sum(task.pinned is not None for task in tasks):
            yield f"{pinned} pinned by a priority of their own"
        return
    changes = earlier.plus(Changes.of(report))
    yield f"read {report.read} of {report.front}"
    yield f"moved {changes.moved}"
    yield f"parked {changes.parked}"


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
