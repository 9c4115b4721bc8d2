"""One tick of one queue: read, score, plan, move, report."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Final

from celery_dynprio.complaints import Complaints
from celery_dynprio.engine.candidates import Candidates
from celery_dynprio.engine.drain import Drain
from celery_dynprio.engine.guard import Guard, Watched
from celery_dynprio.engine.guiding import Guiding
from celery_dynprio.engine.keeper import Keeper, follows
from celery_dynprio.engine.knowledge import Knowledge
from celery_dynprio.engine.planner import Plan, Planner
from celery_dynprio.engine.reporting import Look, Work, report_of
from celery_dynprio.engine.scores import Places, Scores
from celery_dynprio.engine.starvation import Starvation
from celery_dynprio.errors import LeaseLostError
from celery_dynprio.levels import Bands
from celery_dynprio.models import Context, Move, Outcome, PendingTask, Place, Report, Role, Snapshot, is_level
from celery_dynprio.objectives import Standing
from celery_dynprio.policies.ahead import Ahead, with_pending
from celery_dynprio.policies.base import Policy, Scorer
from celery_dynprio.ports.broker import Backlog, UsableLevels
from celery_dynprio.ports.guidance import Guidance
from celery_dynprio.ports.lease import Lease
from celery_dynprio.ports.stores import RunningStore, ShareStore, Usage

logger = logging.getLogger("celery_dynprio.reprioritizer")

#: The front may be this much deeper than the window before its newest messages are parked in bulk.
SLACK: Final = 1.2

#: One tick parks at most this many windows in bulk, so that a tick stays short however much arrived.
SPILL_WINDOWS: Final = 2

#: What leaves the queue until the next tick, or in so many seconds, is put in order, and so many tasks at least.
#: If there are no more than these, all are put into the levels of their scores: they are in order without another tick.
NEAR_SECONDS: Final = 1.0
NEAR_TASKS: Final = 8


@dataclass(slots=True)
class Reprioritizer:
    """Keeps the pending tasks of one queue in order; everything it works with is handed in.

    ``clock`` gives Unix seconds. ``budget`` is how many seconds of broker time the moves of one tick may take.
    ``paused`` tells whether an operator stopped all moves; with ``watched``, the queue is read and reported meanwhile.
    ``guard`` watches the app's objectives. ``levels`` are those that tasks may be put into (None: all), for ``owner``.
    ``keeper`` renews the lease while a tick lasts. ``running`` tells what runs now (None: nothing does), ``shares``
    what shares operators have set. Of the first ``traced`` moves of a tick, the trace ids are reported, which
    ``trace_of`` returns for a message's headers.
    ``guiding`` tells producers how the queue is put in order.
    While nothing waits, the queue may go without a tick for ``rest`` seconds.
    """

    backlog: Backlog
    lease: Lease
    planner: Planner
    policy: Policy
    usage: Usage
    paused: Callable[[], bool]
    budget: float = 0.2
    window: int = 10_000
    dry_run: bool = False
    watched: bool = False
    traced: int = 0
    trace_of: Callable[[Mapping[str, Any]], str] = lambda _: ""
    guard: Guard | None = None
    guiding: Guiding | None = None
    levels: UsableLevels | None = None
    owner: str = ""
    keeper: Keeper | None = None
    running: RunningStore | None = None
    shares: ShareStore | None = None
    rest: float = 0.0
    clock: Callable[[], float] = time.time
    _scores: Scores = field(init=False)
    _beat: Callable[[], object] = field(init=False)
    #: Of the overflow, and of what yields to an objective.
    _candidates: Candidates = field(init=False)
    _spared: Candidates = field(init=False)
    #: What was known when all tasks were scored last.
    _context: Context = field(init=False, default_factory=lambda: Context(0.0))
    #: What was best of the overflow at the last tick.
    _best: Mapping[str, PendingTask] = field(init=False, default_factory=dict)
    _bands: Bands | None = field(init=False, default=None)
    _drain: Drain = field(init=False, default_factory=Drain)
    _fence: str | None = field(init=False, default=None)
    _turned: list[Standing] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._beat = self.keeper.beat if self.keeper else _nothing
        queue = self.backlog.queue.replace("%", "%%")
        complain = Complaints(logger, f"dynprio {queue}: the policy failed, the last scores stand: %r")
        self._scores = Scores(self.policy, complain, self._beat)
        self._candidates, self._spared = Candidates(self._scores), Candidates(self._scores)

    def tick(self) -> Report:
        """Put the queue in order once, if this process leads it.

        Raises what the broker's client raises when the broker is away; whatever was moved by then is moved.
        """
        with self.keeper.working() if self.keeper else nullcontext():
            return self._tick()

    @property
    def leads(self) -> bool:
        """Whether this process led the queue when it last took the lease."""
        return self._fence is not None

    def take(self, fence: str | None) -> None:
        """Take in what the lease gave; forget what was read if others led meanwhile, who may have moved anything."""
        earlier, self._fence = self._fence, fence
        if self.keeper:
            (self.keeper.drop if fence is None else self.keeper.hold)(self.lease)
        if not follows(fence, earlier):
            self.backlog.close()

    def stand_by(self) -> Report:
        """Leave the queue to others."""
        if self.leads:
            self.take(None)
            self.lease.release()
        return self._report(Role.STANDBY, self.clock(), 0.0, None, Work())

    def rest_on(self, last: Report | None) -> Report:
        """Return the report of a queue that was found empty without a tick, as the ``last`` one of it was, if any."""
        now = self.clock()
        return replace(
            last or Report(self.backlog.queue, Role.LEADER, now), started=now, seconds=0.0, moves=(), outcomes=()
        )

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

    def _tick(self) -> Report:
        started, timer = self.clock(), time.monotonic()
        role, fence = self._role()
        look, work = None, Work()
        if role in {Role.LEADER, Role.DRY_RUN}:
            try:
                look, work = self._work(started, fence)
            except LeaseLostError:
                role = Role.STANDBY
        elif role is Role.PAUSED:
            look = self._idle(started)
        return self._report(role, started, time.monotonic() - timer, look, work)

    def _report(self, role: Role, started: float, seconds: float, look: Look | None, work: Work) -> Report:
        # A tick that failed leaves them to the next one: no process finds them again.
        turned, self._turned = self._turned, []
        return report_of(self.backlog.queue, role, started, seconds, look, work, turned)

    def _role(self) -> tuple[Role, str | None]:
        if self.dry_run:
            return Role.DRY_RUN, None
        fence = self._lead()
        if fence is None:
            return Role.STANDBY, None
        return (Role.PAUSED if self.paused() else Role.LEADER), fence

    def _lead(self) -> str | None:
        """Take or renew the lease; return the fence, or None if another process leads."""
        self.take(self.lease.acquire())
        return self._fence

    def _idle(self, now: float) -> Look | None:
        """What a paused leader does: it moves nothing."""
        if self.levels is not None:
            self.levels.warn()
        if not self.watched:
            return None
        snapshot = self.backlog.read(now)
        return self._look(snapshot, self.guard.look(snapshot, now, acts=False) if self.guard else None)

    def _work(self, now: float, fence: str | None) -> tuple[Look, Work]:
        spilled = 0 if self.dry_run else self._spill(now, fence)
        usable, spent = self._usable(fence)
        snapshot = self.backlog.read(now)
        known = Knowledge(self.usage, self.running, self.shares).context(now)
        if not self._scores.stand(self._count(snapshot), now):
            self._context = with_pending(known, self._pending(snapshot), self.policy, self._beat)
        score = self._scores.bind(self._context, Places(snapshot))
        look = self._look(snapshot, self._watch(snapshot, now, score, known.runtimes))
        self._turned += look.turned
        self._drain.follow(snapshot, self._context.runtimes, self.running.read(now) if self.running else (), now)
        plan = self._plan(look, score, now, usable, max(self.budget - spent, 0.0))
        self._bands = plan.bands
        self._forget(snapshot)
        traces = self._traces(plan.moves[: self.traced])
        outcomes = () if self.dry_run else self._apply(plan.moves)
        self._drain.note_lifted(plan.lifted)
        if self.guiding and not self.dry_run and (snapshot.overflow or any(snapshot.levels)):
            ahead = self._context.ahead
            self.guiding.tell(_guidance(plan.bands, known, ahead.totals if isinstance(ahead, Ahead) else {}), now)
        return look, Work(plan.moves, outcomes, plan.deferred, spilled, traces)

    def _count(self, snapshot: Snapshot) -> int:
        """Return how many tasks are pending, about: what is scored at once."""
        parked = len(snapshot.overflow)
        return sum(map(len, snapshot.levels)) + (len(self._best) if parked > self.window else parked)

    def _pending(self, snapshot: Snapshot) -> Iterable[PendingTask]:
        """What waits for a worker; of a long overflow what was best last time, so that the time it takes is bounded.

        Any other parked task counts as behind all these of its key.
        """
        parked = snapshot.overflow
        if len(parked) > self.window:
            parked = {task_id: task for task_id, task in self._best.items() if task_id in parked}
        return chain(*snapshot.levels, parked.values())

    def _look(self, snapshot: Snapshot, watched: Watched | None) -> Look:
        if watched is None:
            return Look(snapshot, overflow=snapshot.overflow)
        found = Look(snapshot, watched.standings, watched.turned, overflow=snapshot.overflow)
        if not watched.yielding or not self.backlog.capabilities.parks:
            return found
        yields = watched.yielding.yields
        overflow = {task_id: task for task_id, task in snapshot.overflow.items() if not yields(task)}
        return replace(found, yields=yields, overflow=overflow)

    def _watch(self, snapshot: Snapshot, now: float, score: Scorer, runtimes: Mapping[str, float]) -> Watched | None:
        """What the guard found, and what it lets through all the same."""
        if self.guard is None:
            return None

        def best(tasks: Mapping[str, PendingTask]) -> list[PendingTask]:
            chosen = self._spared.choose(tasks, score, self.window)
            return sorted(chosen.values(), key=lambda task: (-score(task), task.published))

        watched = self.guard.look(snapshot, now, acts=not self.dry_run)
        return self.guard.relax(watched, snapshot, now, runtimes, best)

    def _plan(self, look: Look, score: Scorer, now: float, usable: Sequence[Place] | None, budget: float) -> Plan:
        self._best = candidates = self._candidates.choose(look.overflow, score, self.window)
        return self.planner.plan(
            replace(look.snapshot, overflow=candidates),
            score,
            now,
            bands=self._bands,
            starvation=self._starvation(),
            near=self._near(look.snapshot),
            cost=self.backlog.cost,
            budget=budget,
            yields=look.yields,
            usable=usable,
        )

    def _starvation(self) -> Starvation:
        drain = self._drain
        patience = drain.patience(self._scores.patience())
        return Starvation(patience, drain.credit, drain.seconds, drain.soon(NEAR_SECONDS))

    def _near(self, snapshot: Snapshot) -> int | None:
        soon = self._drain.soon(NEAR_SECONDS)
        if not soon or sum(snapshot.depths) <= NEAR_TASKS:
            return None  # or nobody knows yet how fast they leave
        return max(soon, NEAR_TASKS)

    def _traces(self, moves: Sequence[Move]) -> Mapping[str, str]:
        headers = self.backlog.headers(moves) if moves else {}
        return {task_id: self.trace_of(found) for task_id, found in headers.items()}

    def _apply(self, moves: Sequence[Move]) -> Sequence[Outcome]:
        if not moves:
            return ()
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
        def front() -> Container[str]:
            return {task.ref for tasks in snapshot.levels for task in tasks}

        known = sum(map(len, snapshot.levels)) + len(snapshot.overflow)
        self._scores.prune(front, snapshot.overflow, known=known)

    def _spill(self, now: float, fence: str | None) -> int:
        if not self.backlog.capabilities.parks:
            return 0
        front = sum(count for place, count in self.backlog.count().items() if is_level(place))
        if front <= SLACK * self.window:
            return 0
        return self.backlog.spill(min(front - self.window, SPILL_WINDOWS * self.window), now, fence)


def _guidance(bands: Bands, known: Context, waiting: Mapping[str, float]) -> Guidance:
    return Guidance(bands, known.runtimes, known.use, known.running, waiting, known.shares)


def _nothing() -> None:
    """Nobody waits for a sign of life."""
