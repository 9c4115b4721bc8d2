"""The tick: read, score, plan, move, report. And the loop around it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Final, Protocol

from celery_dynprio import message
from celery_dynprio.brokers.redis.client import BROKER_ERRORS
from celery_dynprio.brokers.redis.trouble import explained
from celery_dynprio.complaints import Complaints
from celery_dynprio.engine.guard import Guard, Watched
from celery_dynprio.engine.keeper import Keeper, follows
from celery_dynprio.engine.planner import Planner
from celery_dynprio.engine.scores import Scores
from celery_dynprio.errors import BrokerRefusedError, BrokerUnavailableError, LeaseLostError
from celery_dynprio.hosting.orm import close_connections
from celery_dynprio.levels import Bands
from celery_dynprio.models import (
    OVERFLOW,
    Context,
    Move,
    Outcome,
    PendingTask,
    Place,
    Report,
    Role,
    Snapshot,
    is_level,
    place_name,
)
from celery_dynprio.objectives import Standing
from celery_dynprio.policies.base import Policy
from celery_dynprio.ports.broker import Backlog, UsableLevels
from celery_dynprio.ports.lease import Lease
from celery_dynprio.tracing.runs import span_of_headers

logger = logging.getLogger("celery_dynprio.reprioritizer")

#: The front may be this much deeper than the window before its newest messages are parked in bulk.
SLACK: Final = 1.2

#: One tick parks at most this many windows in bulk, so that a tick stays short however much arrived.
SPILL_WINDOWS: Final = 2

#: Seconds to wait after a failed tick: the first, doubled each time, and the longest.
FIRST_BACKOFF: Final = 0.5
LONGEST_BACKOFF: Final = 10.0

#: Seconds that the hooks of objectives may take at the end.
HOOK_TIMEOUT: Final = 2.0

#: So many moves of a queue may be told as events in a second.
MAX_EVENTS: Final = 100

#: Moves that a dry run lists at a tick.
MOST_LISTED: Final = 20

#: What a tick raises when the broker is away.
NO_BROKER: Final = (*BROKER_ERRORS, BrokerUnavailableError)


class Learned(Protocol):
    """Where learned runtimes and use come from."""

    def read(self, now: float) -> tuple[Mapping[str, float], Mapping[str, float]]:
        """Runtimes in seconds by task name, decayed use in seconds by fairness key, as of ``now`` (Unix seconds)."""


class _Places:
    """What the present place of a task stands for, so that a policy broken from the start leaves the order as it is."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._scores: dict[str, float] | None = None

    def __call__(self, task: PendingTask) -> float:
        if self._scores is None:  # most ticks never ask
            bands = Bands.equal(len(self._snapshot.levels))
            levels = enumerate(self._snapshot.levels)
            self._scores = {each.id: bands.middle(level) for level, tasks in levels for each in tasks}
        return self._scores.get(task.id, 0.0)


@dataclass(slots=True)
class Reprioritizer:
    """Keeps the pending tasks of one queue in order; everything it works with is handed in.

    ``clock`` gives Unix seconds; ``budget`` is seconds of broker time that the moves of one tick may take; ``paused``
    tells whether an operator stopped all moves. With ``watched`` what waits is read, and reported, while they are.
    ``guard`` watches the app's objectives; ``levels`` are those that tasks may be put into (None: all), for ``owner``.
    ``keeper`` renews the lease while a tick lasts.
    Of the first ``traced`` moves of a tick the traces are reported that the tasks belong to.
    """

    backlog: Backlog
    lease: Lease
    planner: Planner
    policy: Policy
    learned: Learned
    paused: Callable[[], bool]
    budget: float = 0.2
    window: int = 10_000
    dry_run: bool = False
    watched: bool = False
    traced: int = 0
    guard: Guard | None = None
    levels: UsableLevels | None = None
    owner: str = ""
    keeper: Keeper | None = None
    clock: Callable[[], float] = time.time
    _scores: Scores = field(init=False)
    _bands: Bands | None = field(init=False, default=None)
    _fence: str | None = field(init=False, default=None)
    _turned: list[Standing] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        beat = self.keeper.beat if self.keeper else _nothing
        queue = self.backlog.queue.replace("%", "%%")
        complain = Complaints(logger, f"dynprio {queue}: the policy failed, the last scores stand: %r")
        self._scores = Scores(self.policy, complain, beat)

    def tick(self) -> Report:
        """Put the queue in order once, if this process leads it.

        Raises what the broker's client raises when the broker is away; whatever was moved by then is moved.
        """
        with self.keeper.working() if self.keeper else nullcontext():
            return self._tick()

    def _tick(self) -> Report:
        started, timer = self.clock(), time.monotonic()
        role, fence = self._role()
        report = Report(self.backlog.queue, role, started)
        if role in {Role.LEADER, Role.DRY_RUN}:
            try:
                report = self._work(report, fence)
            except LeaseLostError:
                report = replace(report, role=Role.STANDBY)
        elif role is Role.PAUSED:
            if self.levels is not None:
                self.levels.warn()
            if self.watched:
                snapshot = self.backlog.read(started)
                watched = self.guard.look(snapshot, started, acts=False) if self.guard else None
                report = _with(report, snapshot, watched, self._unheld(snapshot, watched))
        # Of a tick that failed the next one tells: no process finds them again.
        turned, self._turned = self._turned, []
        return replace(report, turned=turned, seconds=time.monotonic() - timer)

    def close(self) -> None:
        """Give the lease and the backlog back, and see to it that nothing waits where no worker looks."""
        try:
            if self.levels is not None and self._fence is not None and not self.paused():
                with suppress(LeaseLostError):  # then it is for the other one to do
                    self.levels.leave(self.owner, self._fence)
        finally:
            if self.keeper:
                self.keeper.drop(self.lease)
            try:
                if not self.dry_run:
                    self.lease.release()
            finally:
                self.backlog.close()

    def _role(self) -> tuple[Role, str | None]:
        if self.dry_run:
            return Role.DRY_RUN, None
        fence = self._lead()
        if fence is None:
            return Role.STANDBY, None
        return (Role.PAUSED if self.paused() else Role.LEADER), fence

    def _lead(self) -> str | None:
        """Take or renew the lease; forget what was read if others led meanwhile, who may have moved anything."""
        fence, earlier = self.lease.acquire(), self._fence
        self._fence = fence
        if self.keeper:
            (self.keeper.drop if fence is None else self.keeper.hold)(self.lease)
        if not follows(fence, earlier):
            self.backlog.close()
        return fence

    def _work(self, report: Report, fence: str | None) -> Report:
        now = report.started
        spilled = 0 if self.dry_run else self._spill(now, fence)
        usable, spent = self._usable(fence)
        snapshot = self.backlog.read(now)
        runtimes, use = self.learned.read(now)
        score = self._scores.bind(Context(now, runtimes, use), _Places(snapshot))
        watched = self._watch(snapshot, now, score, runtimes)
        overflow = self._unheld(snapshot, watched)
        self._turned += watched.turned if watched else ()
        report = _with(report, snapshot, watched, overflow)  # before the moves, which change the snapshot's overflow
        candidates = self._scores.candidates(overflow, score, self.window)
        plan = self.planner.plan(
            replace(snapshot, overflow=candidates),
            score,
            now,
            bands=self._bands,
            patience=self._scores.patience(),
            cost=self.backlog.cost,
            budget=max(self.budget - spent, 0.0),
            yields=watched.yielding.yields if watched and overflow is not snapshot.overflow else None,
            usable=usable,
        )
        self._bands = plan.bands
        self._forget(snapshot)
        traces = self._traces(plan.moves[: self.traced])
        outcomes = [] if self.dry_run else self._apply(plan.moves)
        return replace(
            report,
            moves=plan.moves,
            outcomes=outcomes,
            deferred=plan.deferred,
            spilled=spilled,
            traces=traces,
        )

    def _watch(
        self, snapshot: Snapshot, now: float, score: Callable[[PendingTask], float], runtimes: Mapping[str, float]
    ) -> Watched | None:
        """What the guard found, and what it lets through all the same."""
        if self.guard is None:
            return None

        def best(tasks: Mapping[str, PendingTask]) -> list[PendingTask]:
            chosen = self._scores.candidates(tasks, score, self.window)
            return sorted(chosen.values(), key=lambda task: (-score(task), task.published))

        watched = self.guard.look(snapshot, now, acts=not self.dry_run)
        return self.guard.relax(watched, snapshot, now, runtimes, best)

    def _unheld(self, snapshot: Snapshot, watched: Watched | None) -> Mapping[str, PendingTask]:
        """The overflow without what yields."""
        if not watched or not watched.yielding or not self.backlog.capabilities.parks:
            return snapshot.overflow
        yields = watched.yielding.yields
        return {task_id: task for task_id, task in snapshot.overflow.items() if not yields(task)}

    def _traces(self, moves: Sequence[Move]) -> Mapping[str, str]:
        headers = self.backlog.headers(moves) if moves else {}
        return {task_id: span_of_headers(found).trace_id for task_id, found in headers.items()}

    def _apply(self, moves: Sequence[Move]) -> Sequence[Outcome]:
        earlier, fence = self._fence, self._lead()  # nobody renewed it while the process was stopped
        if fence is None or not follows(fence, earlier):
            raise LeaseLostError(
                f"queue {self.backlog.queue!r}: another reprioritizer led it meanwhile; nothing was moved"
            )
        return self.backlog.apply(moves, fence)

    def _usable(self, fence: str | None) -> tuple[Sequence[Place] | None, float]:
        """The levels that tasks may be put into; the others are emptied, which took so many seconds of the budget."""
        if self.levels is None:
            return None, 0.0
        usable, began = self.levels.now(), time.monotonic()
        moved = 0 if fence is None else self.levels.keep(usable, fence, self.budget)
        return usable, time.monotonic() - began if moved else 0.0

    def _forget(self, snapshot: Snapshot) -> None:
        front = {task.id for tasks in snapshot.levels for task in tasks}
        self._scores.prune(front, snapshot.overflow, known=len(front) + len(snapshot.overflow))

    def _spill(self, now: float, fence: str | None) -> int:
        if not self.backlog.capabilities.parks:
            return 0
        front = sum(count for place, count in self.backlog.count().items() if is_level(place))
        if front <= SLACK * self.window:
            return 0
        return self.backlog.spill(min(front - self.window, SPILL_WINDOWS * self.window), now, fence)


def _with(report: Report, snapshot: Snapshot, watched: Watched | None, overflow: Mapping[str, PendingTask]) -> Report:
    """The report, and what was read; ``overflow`` is the part of it that does not yield to an objective."""
    return replace(
        report,
        read=sum(map(len, snapshot.levels)),
        front=sum(snapshot.depths),
        overflow=snapshot.overflow_depth,
        held=snapshot.held_depth,
        cancelled=snapshot.cancelled_depth,
        foreign=snapshot.foreign,
        snapshot=snapshot,
        standings=watched.standings if watched else (),
        held_back=len(snapshot.overflow) - len(overflow),
    )


def _nothing() -> None:
    """Nobody waits for a sign of life."""


def describe(report: Report) -> str:
    """One line that says what a tick did."""
    if report.role in {Role.STANDBY, Role.PAUSED}:
        return f"{report.queue}: {report.role.value}"
    moved = report.outcomes.count(Outcome.MOVED)
    parked = report.spilled + sum(move.target == OVERFLOW for move in report.moves)
    line = f"{report.queue}: read {report.read} of {report.front}, moved {moved}, parked {parked}"
    if report.role is Role.DRY_RUN:
        line = f"{report.queue}: dry run, read {report.read} of {report.front}, would move {len(report.moves)}"
        tasks = chain.from_iterable(report.snapshot.levels if report.snapshot else ())
        if pinned := sum(task.pinned is not None for task in tasks):
            line += f", {pinned} pinned by a priority of their own"
    if report.overflow or report.held:
        line += f", overflow {report.overflow}, held {report.held}"
    if report.held_back:
        line += f", held back {report.held_back}"
    if report.deferred:
        line += f", deferred {report.deferred}"
    if report.foreign:
        reasons = "; ".join(f"{reason}: {count}" for reason, count in report.foreign.items())
        line += f", left alone {sum(report.foreign.values())} ({reasons})"
    return f"{line}, in {report.seconds * 1000:.0f} ms"


def planned(report: Report) -> Iterator[str]:
    """Lines that say what a dry run would move, what matters most first."""
    for move in report.moves[:MOST_LISTED]:
        task = f"{message.clean(move.task.name)}[{message.clean(move.task.id, message.MAX_ID)}]"
        places = f"from {place_name(move.source)} to {place_name(move.target)}"
        yield f"would move {task} {places}: {move.reason}, score {move.score:.3f}"
    if len(report.moves) > MOST_LISTED:
        yield f"would move {len(report.moves) - MOST_LISTED:,} more"


class TickLog:
    """Logs each tick that changed something, and the first after a failure; the others at DEBUG."""

    def __init__(self) -> None:
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
        if isinstance(problem, BROKER_ERRORS):
            problem = explained(problem)
        if isinstance(problem, BrokerRefusedError):
            logger.error("dynprio %s: %s; trying again", queue, problem)
        elif isinstance(problem, BrokerUnavailableError):
            logger.warning("dynprio %s: %s; trying again", queue, problem)
        else:
            logger.error("dynprio %s: a tick failed, trying again", queue, exc_info=problem)


def serve(
    reprioritizers: Sequence[Reprioritizer],
    interval: float,
    stop: threading.Event,
    observe: Callable[[Report], None] | None = None,
    finished: Callable[[Sequence[Report]], bool] = lambda _: False,
    *,
    failed: Callable[[str, Exception], None] | None = None,
) -> None:
    """Tick every ``interval`` seconds until ``stop`` is set or ``finished`` says so of the last reports; then let go.

    ``observe`` is told each report. Nothing that happens in a tick ends the loop: ``failed`` is told the queue and the
    problem, and it is tried again after a growing pause. The log is told where they are None.
    """
    log = TickLog()
    observe, failed = observe or log.observe, failed or log.failed
    failures = 0
    keeper = next((each.keeper for each in reprioritizers if each.keeper), None)
    working = ExitStack()
    if keeper:
        working.enter_context(keeper.working())
    try:
        while not stop.is_set():
            began = time.monotonic()
            reports, trouble = _round(reprioritizers, stop, observe, failed)
            close_connections()
            if finished(reports):
                break
            failures = failures + 1 if trouble else 0
            pause = min(FIRST_BACKOFF * 2 ** (failures - 1), LONGEST_BACKOFF) if failures else interval
            pause = max(pause - (time.monotonic() - began), 0.0)
            if keeper:
                keeper.rest(pause)
            stop.wait(pause)
    finally:
        for reprioritizer in reprioritizers:
            _close(reprioritizer)
        working.close()
        until = time.monotonic() + HOOK_TIMEOUT
        for guard in filter(None, (reprioritizer.guard for reprioritizer in reprioritizers)):
            guard.close(max(until - time.monotonic(), 0.0))


def _round(
    reprioritizers: Sequence[Reprioritizer],
    stop: threading.Event,
    observe: Callable[[Report], None],
    failed: Callable[[str, Exception], None],
) -> tuple[list[Report], bool]:
    reports, trouble = [], False
    for reprioritizer in reprioritizers:
        if stop.is_set():
            break
        try:
            report = reprioritizer.tick()
            observe(report)
            reports.append(report)
        except Exception as exc:  # noqa: BLE001 - one queue's trouble must not stop the others
            trouble = True
            failed(reprioritizer.backlog.queue, exc)
    return reports, trouble


def _close(reprioritizer: Reprioritizer) -> None:
    try:
        reprioritizer.close()
    except BROKER_ERRORS as exc:
        logger.warning("%s: the lease could not be given back and expires: %s", reprioritizer.backlog.queue, exc)
