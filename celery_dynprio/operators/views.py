"""What an operator can see of pending tasks: the order, its reasons, figures, and traces. Reads only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Final

from celery_dynprio.engine.guard import Yielding
from celery_dynprio.engine.knowledge import Knowledge
from celery_dynprio.engine.ordering import Turn, shifts
from celery_dynprio.engine.scene import Scene
from celery_dynprio.errors import ArgumentError, NotPendingError
from celery_dynprio.models import CANCELLED, HELD, OVERFLOW, Context, Contribution, is_level
from celery_dynprio.objectives import Standing
from celery_dynprio.operators.abbreviations import whole
from celery_dynprio.operators.explaining import Explainer
from celery_dynprio.operators.fates import Answer, Fate, Fates
from celery_dynprio.operators.refusals import unless_refused
from celery_dynprio.operators.results import Comparison, Explanation, Listing, QueueStats, Stats
from celery_dynprio.operators.scoring import contributions, scorer
from celery_dynprio.operators.selection import Filter
from celery_dynprio.operators.taken import MOST as MOST_TAKEN
from celery_dynprio.operators.taken import taken_by
from celery_dynprio.operators.waiting import Waiting, read_waiting, turns_of
from celery_dynprio.operators.workers import Workers, ask
from celery_dynprio.policies.ahead import with_pending
from celery_dynprio.policies.base import Policy
from celery_dynprio.ports.broker import Backlog, Broker
from celery_dynprio.ports.stores import Entry
from celery_dynprio.settings import Settings
from celery_dynprio.tracing.records import Trace

if TYPE_CHECKING:
    from celery import Celery

#: Of a list that is far too deep only part is read at once: a page that ends behind so many tasks takes a full read.
QUICK: Final = 3_000

#: Messages of the front in which the longest waits are looked for, those that run next.
GLANCE: Final = 20_000

#: How often a task that is explained is looked for again: a worker may take it, or it may be moved, meanwhile.
MOST_TRIES: Final = 3

ALL: Final = Filter()


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
        self._knowledge = Knowledge(self._usage, broker.stores.running(), broker.stores.shares())
        self._switch = broker.stores.switch()
        self._fates = Fates(app, broker, settings.queues, self._clock)
        self._audit = broker.stores.audit()
        self._spans = broker.stores.spans()

    def paused(self) -> bool:
        """Whether all moves are stopped."""
        return self._switch.paused()

    def pending(self, wanted: Filter = ALL, limit: int | None = None, workers: Workers | None = None) -> Listing:
        """List pending tasks, at most ``limit``, in the order in which they are expected to run, queue by queue.

        For the expected starts the workers are asked, unless ``workers`` tells them; without any, none is expected.
        Raises :class:`~celery_dynprio.errors.ArgumentError` for a queue that is not managed.
        """
        now = self._clock()
        context = self._context(now)
        workers = self._ask_workers() if workers is None else workers
        turns: list[Turn] = []
        matching = missed = 0
        for queue in self._queues(wanted.queue):
            left = None if limit is None else limit - len(turns)
            listing = self._list(queue, wanted, left, context, workers.slots_for(queue))
            turns += listing.turns
            matching += listing.matching
            missed += listing.missed
        delivered = 0 if wanted.selective else self._broker.delivered()
        return Listing(turns, matching, missed, delivered)

    def survey(self, most: int, workers: Workers) -> Listing:
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
        return Listing(turns, max(total, len(turns)), missed)

    def scenes(self, most: int, workers: Workers | None = None) -> list[Scene]:
        """What waits, what runs, and who will run it, queue by queue; of a deeper backlog, what :meth:`survey` lists.

        ``workers`` as in :meth:`pending`.
        """
        context = self._context(self._clock())
        workers = self._ask_workers() if workers is None else workers
        found = []
        for queue in self._settings.queues:
            counts = self._broker.backlog(queue).count()
            waiting = self._waiting(queue, context.now, most)
            turns = self._turns(queue, waiting, context, workers.slots_for(queue))
            total = sum(count for place, count in counts.items() if place not in {CANCELLED, HELD})
            held = sum(turn.place == HELD for turn in turns)
            scene = self._scene(queue, turns, context, workers)
            found.append(replace(scene, left_out=max(total - (len(turns) - held), 0)))
        return found

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
                workers = self._ask_workers() if workers is None else workers
                waiting = self._waiting(queue, now)
                turns = self._turns(queue, waiting, context, workers.slots_for(queue))
                index = next((index for index, turn in enumerate(turns) if turn.task.id == task_id), None)
                if index is not None:
                    known = with_pending(context, waiting.reachable, self._settings.policy)
                    scene = self._scene(queue, turns, known, workers)
                    return self._explainer(backlog, turns[index], scene).explain(turns, index)
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

    def contributions(self, turns: Sequence[Turn]) -> list[Sequence[Contribution]]:
        """What each factor says of each of these tasks now; nothing of a pinned one, which no policy moves."""
        ahead = {turn.task.id: turn.ahead for turn in turns}
        keys = {turn.task.key or "" for turn in turns}
        context = replace(self._context(self._clock()), ahead=lambda task: ahead.get(task.id, 0.0), pending_keys=keys)
        return [contributions(self._settings.policy, turn.task, context) for turn in turns]

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
        workers = self._ask_workers() if workers is None else workers
        paused = self.paused()
        pause = self._audit.last_pause() if paused else None
        return Stats(now, paused, queues, workers, runtimes, use, self.objectives(), pause)

    def objectives(self) -> Sequence[Standing]:
        """How the objectives stand."""
        settings = self._settings
        if not settings.objectives:
            return ()
        return self._broker.stores.attainment(settings.objectives, self._clock, settings.interval).read()

    def compare(self, other: Policy, workers: Workers | None = None) -> list[Comparison]:
        """Score all that is pending by the policy in force and by another, and tell whose turn would change.

        ``workers`` as in :meth:`pending`.
        """
        context = self._context(self._clock())
        workers = self._ask_workers() if workers is None else workers
        found = []
        for queue in self._settings.queues:
            waiting = self._waiting(queue, context.now)
            turns = self._turns(queue, waiting, context, workers.slots_for(queue))
            scores = (
                scorer(policy, with_pending(context, waiting.reachable, policy))
                for policy in (self._settings.policy, other)
            )
            changed = shifts([turn.task for turn in turns], *scores)
            found.append(Comparison(queue, changed, self._scene(queue, turns, context, workers)))
        return found

    def trace(self, task_or_trace_id: str) -> Trace | None:
        """Return the trace with this id, or the newest one with a task of this id; None if none is kept."""
        return self._spans.read(task_or_trace_id)

    def traced_id(self, text: str) -> str:
        """Return the id of a trace or of a task in one that a text stands for; as :meth:`whole_id`."""
        return whole(text, self._spans.ids_with)

    def _queues(self, wanted: str | None) -> Sequence[str]:
        if wanted is None:
            return self._settings.queues
        if wanted not in self._settings.queues:
            raise ArgumentError("queue", wanted, f"not managed; dynprio_queues has {', '.join(self._settings.queues)}")
        return (wanted,)

    def _ask_workers(self) -> Workers:
        """Ask which workers are up; none if the broker refuses the question."""
        return unless_refused(self._broker.errors, lambda: ask(self._app), Workers())

    def _context(self, now: float) -> Context:
        return self._knowledge.context(now)

    def _list(self, queue: str, wanted: Filter, limit: int | None, context: Context, slots: int) -> Listing:
        """List the tasks of one queue that are meant, at most ``limit``."""
        counts = self._broker.backlog(queue).count()
        front = sum(count for place, count in counts.items() if is_level(place))
        if not wanted.selective and limit is not None and limit <= min(front, QUICK):
            # What is read is twice the window, what runs next first: so a first page is quick, however much waits.
            snapshot = self._broker.backlog(queue, max(limit, 1)).read(context.now, overflow=False)
            turns = self._turns(queue, Waiting(snapshot.levels), context, slots) if limit else []
            return Listing(turns[:limit], front + counts[OVERFLOW] + counts[HELD])
        waiting = self._waiting(queue, context.now, trace=wanted.trace)
        turns = self._matching(queue, waiting, wanted, context, slots)
        return Listing(turns[:limit], len(turns), waiting.missed)

    def _matching(self, queue: str, waiting: Waiting, wanted: Filter, context: Context, slots: int) -> list[Turn]:
        return [
            turn
            for turn in self._turns(queue, waiting, context, slots)
            if wanted.matches(turn.task, turn.place, context.now)
            and (wanted.trace is None or turn.task.id in waiting.traced)
        ]

    def _waiting(self, queue: str, now: float, most: int | None = None, trace: str | None = None) -> Waiting:
        return read_waiting(self._broker.backlog(queue).scan(now, most), self._broker.scale.levels, trace)

    def _turns(self, queue: str, waiting: Waiting, context: Context, slots: int) -> list[Turn]:
        yielding = self._yielding(context, any_parked=bool(waiting.overflow))
        policy = self._settings.policy
        known = with_pending(context, waiting.reachable, policy)
        return turns_of(queue, waiting, scorer(policy, known), known, slots=slots, yielding=yielding)

    def _yielding(self, context: Context, *, any_parked: bool) -> Yielding:
        """Which of the parked tasks yield to an objective; with none parked, no objective is read."""
        return Yielding(self.objectives() if any_parked else (), context.now)

    def _scene(self, queue: str, turns: Sequence[Turn], context: Context, workers: Workers) -> Scene:
        yields = self._yielding(context, any_parked=any(turn.place == OVERFLOW for turn in turns)).yields
        names = workers.of_queue(queue)
        return Scene(
            queue,
            context,
            [turn for turn in turns if is_level(turn.place) or (turn.place == OVERFLOW and not yields(turn.task))],
            {name: workers.slots[name] for name in names},
            {name: workers.ahead.get(name, 0) for name in names},
            taken_by(workers, queue, islice(self._broker.unacknowledged(), MOST_TAKEN)) if names else {},
        )

    def _explainer(self, backlog: Backlog, turn: Turn, scene: Scene) -> Explainer:
        yielding = self._yielding(scene.context, any_parked=turn.place == OVERFLOW)
        return Explainer(backlog, self._settings.policy, scene, yielding, lambda task_id: self.log(task_id=task_id))

    def _queue_stats(self, queue: str, now: float, *, oldest: bool) -> QueueStats:
        backlog = self._broker.backlog(queue)
        counts = backlog.count()
        depths = [count for place, count in counts.items() if is_level(place)]
        waits: list[float | None] = [None] * len(depths)
        scan = backlog.scan(now, GLANCE, looks=1)
        for place, task, _ in scan if oldest else ():
            if not is_level(place):
                break
            waits[place] = max(waits[place] or 0.0, now - task.published)
        return QueueStats(
            queue,
            depths,
            waits,
            counts[OVERFLOW],
            counts[HELD],
            scan.foreign,
            backlog.moves(),
            self._broker.lease(queue, owner="").holder(),
        )
