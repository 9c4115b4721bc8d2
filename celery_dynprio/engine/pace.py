"""When each queue is ticked: sooner than the interval while that is cheap, and not at all while nothing waits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final, TypeAlias

from celery_dynprio.engine.tick import Reprioritizer
from celery_dynprio.models import Report, Role

#: The part of the time, of one core or of the broker, that ticks take at most if they come sooner than the interval.
SHARE: Final = 0.05

#: Seconds from the beginning of one tick to the next, at least; less only if the interval is.
SHORTEST: Final = 0.1

#: Queues in which nothing waits that are ticked in an interval, at most.
MOST_IDLE: Final = 10

#: Returns those of these queues in which something waits.
Occupied: TypeAlias = Callable[[Collection[str]], Collection[str]]


class Pace:
    """Decides, round by round, which queues are ticked, and how long to wait for the next round.

    ``interval`` (seconds) is the longest time between two ticks of a queue in which something waits. ``occupied`` is
    asked about queues that were empty, once in an interval; None: they are ticked to find out. ``clock`` never goes
    back.
    """

    def __init__(
        self, interval: float, occupied: Occupied | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._interval = interval
        self._occupied = occupied
        self._clock = clock
        self._reports: dict[str, Report] = {}
        self._ticked: dict[str, float] = {}
        self._asked = -math.inf
        #: Those in which nothing was found when that was asked last.
        self._idle: list[Reprioritizer] = []

    @property
    def reports(self) -> Sequence[Report]:
        """The last report of each queue whose last tick did not fail."""
        return list(self._reports.values())

    def due(self, reprioritizers: Iterable[Reprioritizer]) -> list[Reprioritizer]:
        """Return those that are to tick now."""
        now = self._clock()
        waiting = [each for each in reprioritizers if not self._waits(each.backlog.queue, now)]
        idle = [each for each in waiting if self._is_idle(each)]
        self._idle = []
        if not idle:
            return waiting
        due: Collection[str] = ()
        if now - self._asked >= 0.9 * self._interval:
            self._asked = now
            due = self._found(idle, now)
            self._idle = [each for each in idle if each.backlog.queue not in due]
        left = {each.backlog.queue for each in idle if each.backlog.queue not in due}
        return [each for each in waiting if each.backlog.queue not in left]

    def note(self, ticked: Iterable[Reprioritizer], reports: Iterable[Report]) -> None:
        """Take in the reports of a round; a queue without one had a tick that failed."""
        now = self._clock()
        for each in ticked:
            self._reports.pop(each.backlog.queue, None)
            self._ticked[each.backlog.queue] = now
        self._reports.update({report.queue: report for report in reports})

    def idle(self) -> list[Report]:
        """Return reports of the queues in which this round found nothing without a tick."""
        reports = [each.rest_on(self._reports.get(each.backlog.queue)) for each in self._idle]
        self._reports.update({report.queue: report for report in reports})
        return reports

    def pause(self, seconds: float) -> float:
        """Return the seconds from the beginning of this round, which took so many, to that of the next."""
        if any(map(_hurries, self._reports.values())):
            return min(self._interval, max(SHORTEST, seconds / SHARE))
        return self._interval

    def _waits(self, queue: str, now: float) -> bool:
        """Whether the queue has nothing to be put in order quickly, and was ticked within the interval."""
        report = self._reports.get(queue)
        # A moment early is early enough: rounds come in intervals, too.
        return (
            report is not None
            and not _hurries(report)
            and now - self._ticked.get(queue, -math.inf) < 0.9 * self._interval
        )

    def _is_idle(self, each: Reprioritizer) -> bool:
        """Whether this process leads the queue, and as far as is known nothing is in it."""
        if self._occupied is None or not each.rest or not each.leads:
            return False
        report = self._reports.get(each.backlog.queue)
        if report is None:
            return each.backlog.queue not in self._ticked  # or else its last tick failed
        return report.role is Role.LEADER and not (report.front or report.overflow or report.cancelled)

    def _found(self, idle: Sequence[Reprioritizer], now: float) -> set[str]:
        """Those in which something waits, and a few that were not ticked for long."""
        last = {each.backlog.queue: self._ticked.get(each.backlog.queue, -math.inf) for each in idle}
        old = [each.backlog.queue for each in idle if now - last[each.backlog.queue] >= each.rest]
        return {*self._ask(set(last)), *sorted(old, key=last.__getitem__)[:MOST_IDLE]}

    def _ask(self, queues: Collection[str]) -> Collection[str]:
        try:
            return self._occupied(queues) if self._occupied is not None else queues
        except Exception:  # noqa: BLE001 - the ticks find out what is wrong, and tell
            return queues


def _hurries(report: Report) -> bool:
    return report.role is Role.LEADER and bool(report.front or report.overflow)
