"""Watches the objectives for the reprioritizer of one queue, and says what is to be held back for them."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final

from celery_dynprio.engine.admission import Admission, slots_needed
from celery_dynprio.models import PendingTask, Snapshot
from celery_dynprio.objectives import Names, Objective, Standing, globs
from celery_dynprio.ports.stores import Attainment

logger = logging.getLogger("celery_dynprio.guard")

#: Seconds for which the figures must say that a breach is over: what was overdue may have started late, and its worker
#: counts that a second later.
SETTLED_AFTER: Final = 3.0

#: Once a promised task has waited for this share of its time, nothing expendable is let through.
PRESSING: Final = 0.5


class Yielding:
    """Which tasks yield to the objectives among ``standings`` that are breached and degrade, as of ``now``.

    A task that one of them is about yields only to those before it. Were two of them to hold back each other's tasks,
    neither would recover. Tasks whose ids are in ``admitted`` do not yield.
    """

    def __init__(self, standings: Sequence[Standing], now: float, admitted: Container[str] = ()) -> None:
        self._objectives = [each.objective for each in degrading(standings)]
        self._admitted = admitted
        self._expendable = Names([each.expendable for each in self._objectives])
        self._promised = Names([each.match for each in self._objectives])
        self._now = now

    def __bool__(self) -> bool:
        return bool(self._objectives)

    def yields(self, task: PendingTask) -> bool:
        """Whether a task yields to any of them."""
        return self.to(task) is not None

    def to(self, task: PendingTask) -> Objective | None:
        """The objective that a task yields to; None if it does not yield."""
        if task.pinned is not None or task.id in self._admitted:
            return None
        waited = abs(self._now - task.published)  # a publisher whose clock is far ahead would have it wait for ever
        promised = min(self._promised.matching(task.name), default=len(self._objectives))
        for index in self._expendable.matching(task.name):
            if index < promised and waited < self._objectives[index].hold_at_most:
                return self._objectives[index]
        return None


@dataclass(frozen=True, slots=True)
class Watched:
    """What a look at the objectives found."""

    standings: Sequence[Standing]
    #: Those that were breached or recovered at this look, and that no other process told of.
    turned: Sequence[Standing]
    yielding: Yielding


def no_slots(_: str) -> int:
    """Nobody can be asked how many tasks run at once: while something promised comes, nothing expendable is let in."""
    return 0


class Guard:
    """Watches some objectives for one queue.

    ``slots`` says how many tasks of a queue the workers run at once, 0 if that is not known. ``admission`` is shared
    with the guards of other queues that the same workers take from. ``clean_up`` is called at the end of each thread in
    which a user's hook ran.
    """

    def __init__(
        self,
        queue: str,
        objectives: Sequence[Objective],
        attainment: Attainment,
        slots: Callable[[str], int] = no_slots,
        admission: Admission | None = None,
        *,
        clean_up: Callable[[], object] = lambda: None,
    ) -> None:
        self._queue = queue
        self._objectives = objectives
        self._attainment = attainment
        self._slots = slots
        self._admission = admission or Admission(1.0)
        self._clean_up = clean_up
        self._names = Names([objective.match for objective in objectives])
        self._hooks: list[threading.Thread] = []
        #: Since when the figures say that a breach is over, by the index of the objective (Unix seconds).
        self._met: dict[int, float] = {}

    def close(self, timeout: float) -> None:
        """Let hooks end that were called, for at most ``timeout`` seconds: nobody would call them again."""
        until = time.monotonic() + timeout
        for thread in self._hooks:
            thread.join(max(until - time.monotonic(), 0.0))

    def look(self, snapshot: Snapshot, now: float, *, acts: bool) -> Watched:
        """Count what is overdue ``now`` (Unix seconds), and judge; without ``acts`` nothing is written or told."""
        if acts:
            self._attainment.tell(self._queue, self._overdue(snapshot, now))
        standings = list(self._attainment.read())
        turned = []
        if not acts:
            self._met.clear()  # what the figures said before a pause is no news after it
        for index, standing in enumerate(standings if acts else ()):
            if self._turns(index, standing, now):
                after = self._attainment.turn(standing)
                if after is not None:
                    standings[index] = after
                    turned.append(after)
                    self._announce(after)
        return Watched(standings, turned, Yielding(standings, now))

    def relax(
        self,
        watched: Watched,
        snapshot: Snapshot,
        now: float,
        runtimes: Mapping[str, float],
        best: Callable[[Mapping[str, PendingTask]], Sequence[PendingTask]],
    ) -> Watched:
        """Let through what leaves the promised tasks their slots: all of it, if none of them came lately.

        ``runtimes`` are learned means in seconds by name; ``best`` chooses from tasks by id, the best first.
        """
        standings = degrading(watched.standings)
        if not standings:
            self._admission.settle()
            return watched
        waited = self._waited(standings, snapshot, now)
        if waited is None and not any(standing.rate or standing.overdue for standing in standings):
            return replace(watched, yielding=Yielding((), now))
        pressed = (waited or 0.0) > PRESSING or any(standing.overdue for standing in standings)
        spare = 0 if pressed else max(self._slots(self._queue) - slots_needed(standings, runtimes), 0)
        self._admission.look(self._queue, _Pending(snapshot), now, runtimes)
        if pressed:
            self._admission.press(now, max(each.objective.hold_at_most for each in standings))
        waiting: Sequence[PendingTask] = ()
        if spare:
            tasks = chain(*snapshot.levels, snapshot.overflow.values())
            waiting = best({task.id: task for task in tasks if watched.yielding.yields(task)})
        admitted = self._admission.admit(self._queue, waiting, spare, now, runtimes)
        return replace(watched, yielding=Yielding(watched.standings, now, admitted))

    def _waited(self, standings: Sequence[Standing], snapshot: Snapshot, now: float) -> float | None:
        """The most of its time that any promised task has waited, as a share; None if none of them waits."""
        names = Names([standing.objective.match for standing in standings])
        waits = (
            (now - task.published) / standings[index].objective.within
            for task in chain(*snapshot.levels, snapshot.overflow.values())
            if not task.scheduled
            for index in names.matching(task.name)
        )
        return max(waits, default=None)

    def _turns(self, index: int, standing: Standing, now: float) -> bool:
        """Whether a breach begins or ends now."""
        if standing.since is None or standing.is_breached:
            self._met.pop(index, None)
            return standing.since is None and standing.is_breached
        self._met[index] = min(self._met.get(index, now), now)  # the clock may have gone back
        return now - self._met[index] >= SETTLED_AFTER

    def _overdue(self, snapshot: Snapshot, now: float) -> Mapping[int, int]:
        counts: Counter[int] = Counter()
        matching, objectives = self._names.matching, self._objectives
        since = now - min((objective.within for objective in objectives), default=0.0)
        tasks = chain(*snapshot.levels, snapshot.overflow.values())
        for task in [task for task in tasks if task.published < since]:  # of a million few are late: this is quick
            for index in matching(task.name):
                if now - task.published > objectives[index].within and not task.scheduled:
                    counts[index] += 1
        return counts

    def _announce(self, standing: Standing) -> None:
        """Log it, and call the user's hook, in a thread of its own: no tick waits for it."""
        logger.log(logging.INFO if standing.since is None else logging.WARNING, "%s", describe(standing))
        if standing.objective.hook is None:
            return
        thread = threading.Thread(
            target=_call, args=(standing, self._clean_up), name="dynprio objective hook", daemon=True
        )
        self._hooks = [*filter(threading.Thread.is_alive, self._hooks), thread]
        try:
            thread.start()
        except RuntimeError:  # no more threads: the queue is put in order all the same
            self._hooks.remove(thread)
            logger.exception("the hook of objective %r could not be called", standing.objective.name)


class _Pending:
    """The ids of all that waits, without a set of them: the overflow may be long."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._front = {task.id for tasks in snapshot.levels for task in tasks}
        self._overflow = snapshot.overflow

    def __contains__(self, task_id: object) -> bool:
        return task_id in self._front or task_id in self._overflow


def degrading(standings: Sequence[Standing]) -> list[Standing]:
    """Those that are breached and have something held back for them."""
    return [each for each in standings if each.since is not None and each.objective.on_breach == "degrade"]


def describe(standing: Standing) -> str:
    """One line that says how an objective stands, and what is done about it."""
    objective = standing.objective
    state = "is met" if standing.since is None else "is breached"
    attained = "nothing started" if standing.attained is None else f"{standing.attained:.1%} in time"
    line = (
        f"objective {objective.name!r} {state}: {attained}, target {objective.target:.1%} within {objective.within:g} s"
        f" ({standing.started} started, {standing.overdue} overdue)"
    )
    if objective.on_breach is None:
        return line
    if standing.since is None:
        return f"{line}; nothing is held back for it"
    expendable = ", ".join(globs(objective.expendable))
    return f"{line}; holding back {expendable}, each for {objective.hold_at_most:g} s at most"


def _call(standing: Standing, clean_up: Callable[[], object]) -> None:
    hook = standing.objective.hook
    try:
        if hook is not None:
            hook(standing)
    except Exception:
        logger.exception("the hook of objective %r failed", standing.objective.name)
    finally:
        clean_up()
