"""What an operator can see of pending tasks: the order, its reasons, and figures. Reads only."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, tee
from typing import TYPE_CHECKING, Final

from celery_dynprio import message
from celery_dynprio.engine.guard import Yielding
from celery_dynprio.engine.ordering import Shift, Turn, order, shifts, starts
from celery_dynprio.engine.scores import Scores
from celery_dynprio.errors import ArgumentError, NotPendingError
from celery_dynprio.models import (
    CANCELLED,
    HELD,
    OVERFLOW,
    Context,
    Contribution,
    Moved,
    PendingTask,
    Place,
    Snapshot,
    is_level,
)
from celery_dynprio.objectives import Standing
from celery_dynprio.operators.abbreviations import whole
from celery_dynprio.operators.fates import Answer, Fate, Fates
from celery_dynprio.operators.refusals import unless_refused
from celery_dynprio.operators.selection import Filter
from celery_dynprio.operators.workers import Workers, ask
from celery_dynprio.policies.base import Policy, Scorer
from celery_dynprio.ports.broker import Backlog, Broker
from celery_dynprio.ports.lease import Holder
from celery_dynprio.ports.stores import Entry
from celery_dynprio.settings import Settings
from celery_dynprio.tracing.runs import span_of_headers

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger("celery_dynprio.views")

#: Of a list that is far too deep only part is read at once: a page that ends behind so many tasks takes a full read.
QUICK: Final = 3_000

#: Messages of the front in which the longest waits are looked for, those that run next.
GLANCE: Final = 20_000

#: How often a task that is explained is looked for again: a worker may take it, or it may be moved, meanwhile.
MOST_TRIES: Final = 3

#: How many of the tasks right ahead are compared with the one that is explained.
AHEAD: Final = 5

ALL: Final = Filter()


@dataclass(frozen=True, slots=True)
class Page:
    """Pending tasks in the order in which they are expected to run, by queue."""

    turns: Sequence[Turn]
    #: How many tasks were meant; more than there are turns if a limit was given.
    matching: int
    #: At most so many others may have been passed over: each was moved each time that it was looked for.
    missed: int = 0
    #: Messages of all queues that workers have and did not acknowledge; 0 if only some tasks were asked for.
    delivered: int = 0


@dataclass(frozen=True, slots=True)
class Ahead:
    """Why a task right ahead of another is ahead."""

    task: PendingTask
    place: Place
    score: float
    reason: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a task is where it is."""

    turn: Turn
    #: What each factor says of it now (as Slurm's ``sprio -l``); none for a pinned task, which no policy moves.
    contributions: Sequence[Contribution]
    #: How many tasks are ahead of it, by place.
    ahead_by_place: Mapping[Place, int]
    #: The ones right ahead, the nearest first.
    ahead: Sequence[Ahead]
    #: The moves that its message remembers: the first, and the last ones.
    moves: Sequence[Moved]
    #: What operators did to it, the newest first.
    operations: Sequence[Entry]
    trace_id: str
    #: Unix seconds at which it comes within the workers' reach if nothing changes: now for what is there already, None
    #: if that cannot be told (see :class:`~celery_dynprio.engine.ordering.Turn`).
    in_front: float | None
    #: The objective that it is held back for; "" if it is not.
    held_back_for: str = ""
    #: How many messages with its id are pending. What operators do is done to all of them.
    messages: int = 1


@dataclass(frozen=True, slots=True)
class QueueStats:
    """Figures of one managed queue."""

    queue: str
    #: Messages in each level, and the longest wait there in seconds (None: nobody waits, or it was not read).
    depths: Sequence[int]
    oldest: Sequence[float | None]
    overflow: int
    held: int
    #: Messages that are left where they are, by reason.
    foreign: Mapping[str, int]
    #: Moves that were ever made.
    moves: int
    leader: Holder | None


@dataclass(frozen=True, slots=True)
class Stats:
    """Figures of one broker."""

    #: Unix seconds.
    at: float
    paused: bool
    queues: Sequence[QueueStats]
    workers: Workers = field(default_factory=Workers)
    #: Learned mean runtime in seconds by task name, and decayed use in seconds by fairness key.
    runtimes: Mapping[str, float] = field(default_factory=dict)
    use: Mapping[str, float] = field(default_factory=dict)
    #: How the objectives stand.
    objectives: Sequence[Standing] = ()
    #: Who paused, when and why; None if nothing is paused, or that is forgotten.
    pause: Entry | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the pending tasks of one queue would be ordered by another policy."""

    queue: str
    #: Those that gain most first.
    shifts: Sequence[Shift]


@dataclass(frozen=True, slots=True)
class _Waiting:
    """What waits in one queue."""

    #: For each level the tasks, the next to run first.
    levels: Sequence[Sequence[PendingTask]]
    overflow: Mapping[str, PendingTask] = field(default_factory=dict)
    held: Collection[PendingTask] = ()
    #: The ids of those whose messages carry a trace that was asked for.
    traced: Collection[str] = ()
    #: See :class:`Page`.
    missed: int = 0


class Views:
    """What can be seen of the managed queues of one broker.

    ``clock`` gives Unix seconds; the broker's, if it is None. Raises what the broker's client raises: see
    ``broker.errors``.
    """

    def __init__(
        self, app: Celery, broker: Broker, settings: Settings, clock: Callable[[], float] | None = None
    ) -> None:
        self._app = app
        self._broker = broker
        self._settings = settings
        self._clock = clock or broker.clock
        self._usage = broker.stores.usage(settings.half_life)
        self._switch = broker.stores.switch()
        self._fates = Fates(app, broker, settings.queues, self._clock)
        self._audit = broker.stores.audit()

    def paused(self) -> bool:
        """Whether all moves are stopped."""
        return self._switch.paused()

    def pending(self, wanted: Filter = ALL, limit: int | None = None, workers: Workers | None = None) -> Page:
        """List pending tasks, at most ``limit``, in the order in which they are expected to run, queue by queue.

        For the expected starts the workers are asked, unless ``workers`` tells them; without any, none is expected.
        Raises :class:`~celery_dynprio.errors.ArgumentError` for a queue that is not managed.
        """
        now = self._clock()
        context = self._context(now)
        workers = self._asked() if workers is None else workers
        turns: list[Turn] = []
        matching = missed = 0
        for queue in self._queues(wanted.queue):
            left = None if limit is None else limit - len(turns)
            page = self._page(queue, wanted, left, context, workers.slots_for(queue))
            turns += page.turns
            matching += page.matching
            missed += page.missed
        delivered = 0 if wanted.selective else self._broker.delivered()
        return Page(turns, matching, missed, delivered)

    def survey(self, most: int, workers: Workers) -> Page:
        """List pending tasks as :meth:`pending`, but at most ``most``, so that the memory it takes is bounded.

        Of a backlog that is deeper, what runs next is listed, then what is held, then some of the overflow.
        """
        now = self._clock()
        context = self._context(now)
        turns: list[Turn] = []
        total = missed = 0
        for queue in self._settings.queues:
            counts = self._broker.backlog(queue).count()
            total += sum(count for place, count in counts.items() if place != CANCELLED)
            waiting = self._waiting(queue, now, most - len(turns))
            turns += self._turns(queue, waiting, context, workers.slots_for(queue))
            missed += waiting.missed
        return Page(turns, max(total, len(turns)), missed)

    def explain(self, task_id: str, workers: Workers | None = None) -> Explanation:
        """Tell why a task is where it is; :class:`~celery_dynprio.errors.NotPendingError` if it is not pending.

        ``workers`` as in :meth:`pending`.
        """
        now = self._clock()
        context = self._context(now)
        pending = True
        for _ in range(MOST_TRIES):
            pending = False
            for queue in self._settings.queues:
                backlog = self._broker.backlog(queue)
                if task_id not in backlog.find([task_id], now):
                    continue
                pending = True
                workers = self._asked() if workers is None else workers
                turns = self._turns(queue, self._waiting(queue, now), context, workers.slots_for(queue))
                index = next((index for index, turn in enumerate(turns) if turn.task.id == task_id), None)
                if index is not None:
                    return self._explanation(backlog, turns, index, context)
            if not pending:
                break
        fate = Fate(Answer.BUSY) if pending else self._fates.of([task_id])[task_id]
        raise NotPendingError(task_id, fate.answer.value, self._settings.queues, fate.detail)

    def whole_id(self, text: str) -> str:
        """The id that a text stands for: an id, or its beginning, if no other pending task's id begins so.

        Failing that, of the tasks that workers have, and of those to which operators did something. Raises
        :class:`~celery_dynprio.errors.ArgumentError` if there are several.
        """
        return whole(text, self._pending_with, self._logged_with)

    def logged_id(self, text: str) -> str:
        """The same, of the tasks to which operators did something."""
        return whole(text, self._logged_with)

    def _pending_with(self, start: str) -> set[str]:
        now = self._clock()
        backlogs = [self._broker.backlog(queue) for queue in self._settings.queues]
        return self._fates.ids_with(start).union(*(backlog.ids_with(start, now) for backlog in backlogs))

    def _logged_with(self, start: str) -> set[str]:
        return {entry.id for entry in self._audit.read() if entry.id.startswith(start)}

    def contributions(self, tasks: Sequence[PendingTask]) -> list[Sequence[Contribution]]:
        """What each factor says of each of these tasks now; nothing of a pinned one, which no policy moves."""
        context = self._context(self._clock())
        return [self._contributions(task, context) for task in tasks]

    def log(self, limit: int | None = None, task_id: str | None = None) -> list[Entry]:
        """What operators did, the newest first; ``task_id`` asks for one task only."""
        entries = self._audit.read()
        return list(islice((entry for entry in entries if task_id in {None, entry.id}), limit))

    def stats(self, workers: Workers | None = None, *, oldest: bool = True) -> Stats:
        """Tell figures of all managed queues; the longest waits (``oldest``) take a read of the whole front.

        ``workers`` as in :meth:`pending`.
        """
        now = self._clock()
        runtimes, use = self._usage.read(now)
        queues = [self._queue_stats(queue, now, oldest=oldest) for queue in self._settings.queues]
        workers = self._asked() if workers is None else workers
        paused = self.paused()
        pause = self._audit.last_pause() if paused else None
        return Stats(now, paused, queues, workers, runtimes, use, self.objectives(), pause)

    def objectives(self) -> Sequence[Standing]:
        """How the objectives stand."""
        settings = self._settings
        if not settings.objectives:
            return ()
        return self._broker.stores.attainment(settings.objectives, self._clock, settings.interval).read()

    def compare(self, other: Policy) -> list[Comparison]:
        """Score all that is pending by the policy in force and by another, and tell whose turn would change."""
        now = self._clock()
        context = self._context(now)
        return [
            Comparison(
                queue,
                shifts(
                    [turn.task for turn in self._turns(queue, self._waiting(queue, now), context, 0)],
                    self._scorer(self._settings.policy, context),
                    self._scorer(other, context),
                ),
            )
            for queue in self._settings.queues
        ]

    def _queues(self, wanted: str | None) -> Sequence[str]:
        if wanted is None:
            return self._settings.queues
        if wanted not in self._settings.queues:
            raise ArgumentError("queue", wanted, f"not managed; dynprio_queues has {', '.join(self._settings.queues)}")
        return (wanted,)

    def _asked(self) -> Workers:
        """The workers that are up; none if the broker refuses the question."""
        return unless_refused(self._broker.errors, lambda: ask(self._app), Workers())

    def _context(self, now: float) -> Context:
        return Context(now, *self._usage.read(now))

    def _scorer(self, policy: Policy, context: Context) -> Scorer:
        def complain(problem: object) -> None:
            logger.warning("the policy failed, what it could not score counts as in the middle: %r", problem)

        return Scores(policy, complain).bind(context)

    def _page(self, queue: str, wanted: Filter, limit: int | None, context: Context, slots: int) -> Page:
        """The turns that are meant, at most ``limit``."""
        counts = self._broker.backlog(queue).count()
        front = sum(count for place, count in counts.items() if is_level(place))
        if not wanted.selective and limit is not None and limit <= min(front, QUICK):
            # What is read is twice the window, what runs next first: so a first page is quick, however much waits.
            snapshot = self._broker.backlog(queue, max(limit, 1)).read(context.now, overflow=False)
            turns = self._turns(queue, _Waiting(snapshot.levels), context, slots) if limit else []
            return Page(turns[:limit], front + counts[OVERFLOW] + counts[HELD])
        waiting = self._waiting(queue, context.now, trace=wanted.trace)
        meant = [
            turn
            for turn in self._turns(queue, waiting, context, slots)
            if wanted.matches(turn.task, turn.place, context.now)
            and (wanted.trace is None or turn.task.id in waiting.traced)
        ]
        return Page(meant[:limit], len(meant), waiting.missed)

    def _waiting(self, queue: str, now: float, most: int | None = None, trace: str | None = None) -> _Waiting:
        """What waits in one queue, without the messages: of a deep backlog they are most of what would be kept."""
        levels: list[list[PendingTask]] = [[] for _ in self._broker.scale.levels]
        late: list[list[PendingTask]] = [[] for _ in self._broker.scale.levels]
        parked: Mapping[Place, dict[str, PendingTask]] = {OVERFLOW: {}, HELD: {}}
        traced, known = set(), set()
        looking = self._broker.backlog(queue).scan(now, most)
        for place, task, raw in looking:
            if place == HELD:  # also beside another message with its id
                parked[HELD][task.id] = task
            elif place == OVERFLOW:
                parked[OVERFLOW][task.id] = task
            elif looking.look == 1:
                levels[place].append(task)
                known.add(task.id)
            elif task.id not in known:
                late[place].append(task)
            if trace and trace.encode() in raw and span_of_headers(message.headers_of(raw)).trace_id == trace:
                traced.add(task.id)
        # What was moved while it was looked for came to the back of its level.
        seen: set[str] = set()
        front = [
            list(_once((*reversed(tasks), *reversed(moved)), seen)) for tasks, moved in zip(levels, late, strict=True)
        ]
        return _Waiting(front, parked[OVERFLOW], list(parked[HELD].values()), traced, looking.missed)

    def _turns(self, queue: str, waiting: _Waiting, context: Context, slots: int) -> list[Turn]:
        """All that waits in one queue, in order."""
        snapshot = Snapshot(waiting.levels, [len(tasks) for tasks in waiting.levels], waiting.overflow)
        scorer = self._scorer(self._settings.policy, context)
        yields = self._yielding(context.now).yields if waiting.overflow else _never

        def stays(turn: Turn) -> bool:
            return turn.place == HELD or (turn.place == OVERFLOW and yields(turn.task))

        turns, ahead = tee(order(queue, snapshot, waiting.held, scorer, context.now, yields=yields))
        names = (turn.task.name for turn in ahead if not stays(turn))
        expected = starts(names, context.runtimes, slots, context.now)
        return [_expected(turn, None if stays(turn) else next(expected)) for turn in turns]

    def _explanation(self, backlog: Backlog, turns: Sequence[Turn], index: int, context: Context) -> Explanation:
        turn = turns[index]
        task, place = turn.task, turn.place
        same = backlog.find([task.id], context.now).get(task.id, ())
        headers = message.headers_of(backlog.message(same[0].task.ref, same[0].place) if same else None)
        ahead = [] if place == HELD else turns[:index]
        by_place: dict[Place, int] = {}
        for each in ahead:
            by_place[each.place] = by_place.get(each.place, 0) + 1
        held_back_for = self._held_back_for(turn, context)
        in_front: float | None = context.now
        if held_back_for:
            in_front = None
        elif not is_level(place):
            # As many as are parked before it have to be brought back, each of them for one that is started.
            in_front = turns[by_place.get(OVERFLOW, 0)].expected if place == OVERFLOW else None
        return Explanation(
            turn,
            self._contributions(task, context),
            by_place,
            [
                Ahead(each.task, each.place, each.score, self._why(each, turn, context))
                for each in ahead[: -AHEAD - 1 : -1]
            ],
            message.moves_of(headers.get(message.HEADER)),
            self.log(task_id=task.id),
            span_of_headers(headers).trace_id,
            in_front,
            held_back_for,
            max(len(same), 1),
        )

    def _held_back_for(self, turn: Turn, context: Context) -> str:
        if turn.place != OVERFLOW:
            return ""
        objective = self._yielding(context.now).to(turn.task)
        return "" if objective is None else objective.name

    def _yielding(self, now: float) -> Yielding:
        return Yielding(self.objectives(), now)

    def _contributions(self, task: PendingTask, context: Context) -> Sequence[Contribution]:
        if task.pinned is not None:
            return ()
        try:
            return self._settings.policy.explain(task, context)
        except Exception as exc:  # noqa: BLE001 - the user's code may raise anything
            logger.warning("the policy failed: %r", exc)
            return ()

    def _why(self, ahead: Turn, turn: Turn, context: Context) -> str:
        """Why the one is ahead of the other, in a few words."""
        if ahead.place == turn.place and is_level(ahead.place):
            return f"came to P{ahead.place} before it"
        if ahead.task.pinned is not None:
            return f"pinned to P{ahead.task.pinned}"
        if turn.task.pinned is not None:
            return f"this one is pinned to P{turn.task.pinned}"
        if ahead.score == turn.score:
            return "published before it"
        pairs = zip(self._contributions(ahead.task, context), self._contributions(turn.task, context), strict=False)
        gains = [(one.contribution - other.contribution, one.factor) for one, other in pairs]
        gain, factor = max(gains, default=(0.0, ""))
        return f"{factor} +{gain:.3f}" if gain > 0 else "not moved yet since the scores changed"

    def _queue_stats(self, queue: str, now: float, *, oldest: bool) -> QueueStats:
        backlog = self._broker.backlog(queue)
        counts = backlog.count()
        depths = [count for place, count in counts.items() if is_level(place)]
        waits: list[float | None] = [None] * len(depths)
        looking = backlog.scan(now, GLANCE, looks=1)
        for place, task, _ in looking if oldest else ():
            if not is_level(place):
                break
            waits[place] = max(waits[place] or 0.0, now - task.published)
        return QueueStats(
            queue,
            depths,
            waits,
            counts[OVERFLOW],
            counts[HELD],
            looking.foreign,
            backlog.moves(),
            self._broker.lease(queue, owner="").holder(),
        )


def _expected(turn: Turn, at: float | None) -> Turn:
    return turn if at is None else replace(turn, expected=at)


def _once(tasks: Iterable[PendingTask], seen: set[str]) -> Iterator[PendingTask]:
    """Those that were not seen yet."""
    for task in tasks:
        if task.id not in seen:
            seen.add(task.id)
            yield task


def _never(_: PendingTask) -> bool:
    return False
