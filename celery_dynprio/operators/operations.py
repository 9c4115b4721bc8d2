"""What an operator can do to pending tasks: behind the command line, the methods of ``DynPrio`` and the Flower page."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from celery_dynprio import message
from celery_dynprio.engine.keeper import Keeper
from celery_dynprio.errors import ArgumentError, OptionError
from celery_dynprio.levels import Bands, at_or_before
from celery_dynprio.models import CANCELLED, HELD, OVERFLOW, Context, Move, Outcome, PendingTask, Place, is_level
from celery_dynprio.operators.fates import AT_WORKERS, Answer, Fate
from celery_dynprio.operators.identity import operator
from celery_dynprio.operators.refusals import unless_refused
from celery_dynprio.operators.revocation import revoke
from celery_dynprio.operators.steering import Deed, Result, Tally, also, carry_out, revoked, told
from celery_dynprio.operators.views import Views
from celery_dynprio.operators.workers import tell
from celery_dynprio.ports.broker import Backlog, Broker, Found
from celery_dynprio.ports.lease import TTL, Lease
from celery_dynprio.settings import Settings
from celery_dynprio.task import call_fields
from celery_dynprio.worker.recorder import Recorder

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger("celery_dynprio.operations")

#: Tasks that are brought back between two renewals of the lease.
CHUNK: Final = 500

#: How often a task is looked for again that was moved by others between the look and the deed.
MOST_TRIES: Final = 20

_BUSY: Final = "it was moved each time it was looked up; try again"

#: Seconds after which a cancelled task whose end was not told belongs to an operator who died: one that lives gives a
#: sign of life more often than that.
ABANDONED: Final = 30.0
SIGN_INTERVAL: Final = 5.0

#: How many tasks of dead operators are looked at in one go, and seconds after which no more of them are begun.
SLICE: Final = 500
SLICE_SECONDS: Final = 0.5

#: Seconds after which it is tried again to tell an end that could not be told.
RETRY: Final = 60.0

#: An end that could not be told within so many seconds means that the result backend is away: none is tried for RETRY.
AWAY: Final = 1.0


@dataclass(frozen=True, slots=True)
class Drained:
    """What :meth:`Operations.drain` did to one queue."""

    queue: str
    #: Tasks brought back to the front.
    returned: int
    #: Messages put into levels that an app without the add-on looks at.
    merged: int
    #: Held tasks that stay held.
    held: int


class Operations(Views):
    """The operator's side of the managed queues of one broker.

    Each operation on a task is atomic against workers, reprioritizers and other operators, and is kept in the audit
    together with ``by``, who does it, and ``why``. What is set by hand is in the task's message from then on: no tick
    undoes it. ``clock`` gives Unix seconds; the broker's, if it is None. Raises what the
    broker's client raises: see ``broker.errors``.
    """

    def __init__(
        self,
        app: Celery,
        broker: Broker,
        settings: Settings,
        by: str | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        super().__init__(app, broker, settings, clock)
        self._by = operator() if by is None else by
        self._backlogs = {queue: broker.backlog(queue, clock=self._clock) for queue in settings.queues}
        self._levels = {queue: broker.levels(queue) for queue in settings.queues}
        self._cancellations = broker.stores.cancellations()
        self._next_sign = 0.0
        self._retries: dict[str, float] = {}
        self._away_until = 0.0

    def hold(self, ids: Iterable[str], why: str = "") -> list[Result]:
        """Take tasks out of the workers' reach until they are released, whatever restarts meanwhile."""

        def deed(found: Found) -> Deed:
            if found.place == HELD:
                return "already held"
            return Move(found.task, found.place, HELD, 0.0, "hold")

        return self._steer("hold", ids, deed, why)

    def release(self, ids: Iterable[str], why: str = "") -> list[Result]:
        """Bring held tasks back to where they belong by their score, or to the level they are pinned to."""
        now = self._clock()
        score = self._scorer(self._settings.policy, self._context(now))
        bands = Bands.equal(len(self._broker.scale.levels))

        def deed(found: Found) -> Deed:
            if found.place != HELD:
                return "not held"
            return _back(found.task, HELD, score(found.task), bands, "release")

        return self._steer("release", ids, deed, why)

    def bump(self, ids: Iterable[str], why: str = "") -> list[Result]:
        """Make tasks the next to run: before all others in level 0, and pinned there; of several the first runs first.

        As Slurm's ``scontrol top``. A held task stays held, and goes first once it is released.
        """

        def deed(found: Found) -> Deed:
            if found.place == HELD:
                return Move(found.task, HELD, HELD, 1.0, "bump", {"pin": 0})
            return Move(found.task, found.place, 0, 1.0, "bump", {"pin": 0}, first=True)

        return self._steer("bump", ids, deed, why, backwards=True)

    def reprioritize(self, ids: Iterable[str], changes: Mapping[str, object], why: str = "") -> list[Result]:
        """Change what the policy knows of tasks, or pin them.

        In ``changes``: ``weight``, 0 to 10; ``deadline``, seconds from now by which they should start, None for none;
        ``key``, the fairness key, None for none; ``level``, which they are pinned to (0 the first), None to let the
        policy decide. They move with the next tick; to a level at once. Raises
        :class:`~celery_dynprio.errors.ArgumentError` for what is not allowed.
        """
        now = self._clock()
        fields = self._fields(changes, now)
        score = self._scorer(self._settings.policy, self._context(now))
        bands = Bands.equal(len(self._broker.scale.levels))

        def deed(found: Found) -> Deed:
            task = message.changed(found.task, fields, bands.count)
            target = found.place
            if found.place != HELD and task.pinned is not None:
                target = task.pinned
            elif found.place == OVERFLOW:  # whoever leads knows of it only what it was when it was parked
                target = bands.level(score(task))
            return Move(found.task, found.place, target, score(task), "reprioritize", fields)

        return [self._not_yet(result, fields.get("pin")) for result in self._steer("reprioritize", ids, deed, why)]

    def cancel(self, ids: Iterable[str], why: str = "") -> list[Result]:
        """Remove tasks from the broker, at once and for good; their results become REVOKED.

        Also with no worker up. What waits for them fails as it does when a worker finds a revoked task. If this process
        dies half-way, another one goes on: see :meth:`finish`. Workers are told to discard those that they have taken
        and not started, and those of which nothing is known. What runs is not terminated.
        """

        def deed(found: Found) -> Deed:
            return Move(found.task, found.place, CANCELLED, 0.0, "cancel")

        self._show_life()
        results = self._steer("cancel", ids, deed, why, elsewhere=self._revoke)
        removed = {result.id: result for result in results if result.messages}
        for task_id, result in removed.items():
            self._show_life()
            problem = self._tell(result.queue, task_id, result.messages)
            removed[task_id] = replace(result, detail=problem or result.detail)
        # Another message with the same id: published twice, or given back because it was not acknowledged in time.
        others = self._fates.at_workers(list(removed))
        for result in self._revoke(others) if others else ():
            removed[result.id] = also(removed[result.id], result)
        self._flush()
        return [removed.get(result.id, result) for result in results]

    def _revoke(self, fates: Mapping[str, Fate]) -> list[Result]:
        """Have the workers discard those of these tasks that may yet start there, and answer for all of them."""
        ids = [task_id for task_id, fate in fates.items() if fate.answer in {*AT_WORKERS, Answer.NOT_FOUND}]

        def answer() -> list[Result]:
            if ids:
                tell(self._app, "revoke", task_id=ids)
            return revoked(fates)

        return unless_refused(self._broker.errors, answer, told(fates))

    def finish(self) -> int:
        """Tell the ends of some tasks that were cancelled by a process that then died; return how many.

        For about half a second, so that a tick is not late: the next call goes on. While any operator cancels, and for
        a while after the result backend did not answer, nothing.
        """
        now = time.monotonic()
        if now < self._away_until or self._cancellations.under_way():
            return 0
        tried = told = 0
        until = now + SLICE_SECONDS
        for queue in self._backlogs:
            # Those that failed before come last: they may fail again, and take the others' time.
            for task_id, messages in sorted(self._abandoned(queue).items(), key=lambda each: each[0] in self._retries):
                if (tried and time.monotonic() > until) or time.monotonic() < self._away_until:
                    break
                tried += 1
                told += self._retell(queue, task_id, messages)
        self._flush()
        return told

    def _retell(self, queue: str, task_id: str, messages: int) -> bool:
        """Tell the end of a task that a dead operator cancelled; if that fails, say when to try again."""
        began = time.monotonic()
        if not self._tell(queue, task_id, messages):
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

    def _show_life(self) -> None:
        """Let no leader take over what this process is about to tell."""
        if time.monotonic() >= self._next_sign:
            self._next_sign = time.monotonic() + SIGN_INTERVAL
            try:
                self._cancellations.show_life(self._by, ABANDONED)
            except self._broker.errors.any as exc:  # at worst an end is told twice
                logger.warning("could not note that tasks are being cancelled here: %s", exc)

    def pause(self, why: str = "") -> None:
        """Stop all moves of all reprioritizers on this broker from their next tick on; workers go on."""
        self._switch.pause()
        self._note("pause", why)

    def resume(self, why: str = "") -> None:
        """Let the reprioritizers move again."""
        self._switch.resume()
        self._note("resume", why)

    def drain(self, now: float | None = None, *, held: bool = False, why: str = "") -> list[Drained]:
        """Pause, and bring all overflow back to the front, best first (``held``: the held tasks too).

        After it, everything that is pending is an ordinary message in a list that workers without the add-on take from;
        levels in between join the one before them, in order. ``now`` is Unix seconds.
        """
        now = self._clock() if now is None else now
        self._switch.pause()
        self._note("drain", why)
        return [self._drain(queue, now, held=held) for queue in self._settings.queues]

    # One operation on some tasks

    def _steer(
        self,
        op: str,
        ids: Iterable[str],
        deed: Callable[[Found], Deed],
        why: str,
        *,
        backwards: bool = False,
        elsewhere: Callable[[Mapping[str, Fate]], list[Result]] = told,
    ) -> list[Result]:
        """Do it to all messages with these ids, wherever they are by then; what happened to each id, in their order.

        ``elsewhere`` is asked what to answer for those that are not pending.
        """
        wanted = list(dict.fromkeys(ids))
        results: dict[str, Result] = {}
        tallies: dict[str, Tally] = defaultdict(Tally)
        note = json.dumps({"op": op, "by": self._by, "why": message.clean(why)})
        missed: set[str] = set()
        for _ in range(MOST_TRIES):
            left = [task_id for task_id in wanted if task_id not in results]
            if not left:
                break
            seen: set[str] = set()
            lost: set[str] = set()
            for backlog in self._backlogs.values():
                known = backlog.find(left, self._clock())
                found = {task_id: known[task_id] for task_id in left if task_id in known}
                seen |= found.keys()
                lost |= carry_out(backlog, found, self._usable(deed, backlog.queue), tallies, note, backwards=backwards)
            done = [
                each
                for each in left
                if (each in seen and each not in lost) or (each not in seen and tallies[each].moved)
            ]
            results |= {each: tallies[each].result(each) for each in done}
            gone = [task_id for task_id in left if task_id not in seen and task_id not in results]
            fates = self._fates.of(gone) if gone else {}
            # Twice, because a worker that stops may have given it back behind our look.
            sure = {each: fate for each, fate in fates.items() if fate.answer is not Answer.NOT_FOUND or each in missed}
            for result in elsewhere(sure) if sure else ():
                results[result.id] = result
                self._note(op, why, id=result.id, answer=result.answer.value)
            missed.update(gone)
        return [results.get(task_id, Result(task_id, Answer.BUSY, detail=_BUSY)) for task_id in wanted]

    def _usable(self, deed: Callable[[Found], Deed], queue: str) -> Callable[[Found], Deed]:
        """The same deed, which puts tasks only into levels that may be used."""
        usable = self._levels[queue].now()

        def into(found: Found) -> Deed:
            wanted = deed(found)
            return _put_in(wanted, usable) if isinstance(wanted, Move) else wanted

        return into

    def _not_yet(self, result: Result, pin: int | None) -> Result:
        """The result that also says if the level that a task was pinned to may not be used yet."""
        if pin is None or not result.messages:
            return result
        target = at_or_before(pin, self._levels[result.queue].now())
        waits = f"waits in P{target} until all workers take from P{pin}" if target != pin else ""
        return replace(result, detail="; ".join(filter(None, (result.detail, waits))))

    def _note(self, op: str, why: str, **more: str) -> None:
        """Keep it in the log; a broker that refuses that, out of memory, keeps nobody from what he does."""
        try:
            self._audit.add(op=op, by=self._by, why=message.clean(why), **more)
        except self._broker.errors.refusals as exc:
            logger.warning("%s: the broker refused to keep it in the log of operations: %s", op, exc)

    def _fields(self, changes: Mapping[str, object], now: float) -> dict[str, Any]:
        """The fields of the message's header that these changes are."""
        if not changes:
            raise ArgumentError("changes", changes, "give weight, deadline, key or level")
        asked = {name: value for name, value in changes.items() if name != "level"}
        try:
            fields = call_fields("", asked, now)
        except OptionError as exc:
            raise ArgumentError(exc.option, exc.value, exc.allowed) from None
        if "level" in changes:
            level, last = changes["level"], len(self._broker.scale.levels) - 1
            if level is not None and (type(level) is not int or not 0 <= level <= last):
                raise ArgumentError(
                    "level", level, f"use a level from 0, the first, to {last}, or None for the policy's"
                )
            fields["pin"] = level
        return fields

    def _tell(self, queue: str, task_id: str, messages: int = 1) -> str:
        """Tell the end of a cancelled task, once for all ``messages`` with its id; what was in the way, or ""."""
        backlog = self._backlogs[queue]
        raws = backlog.cancelled_messages(task_id, messages)
        if not raws:  # another one told it meanwhile
            return ""
        try:
            revoke(self._app, self._broker, task_id, next(iter(raws.values())))
        except Exception as exc:  # noqa: BLE001 - each result backend has its own
            logger.warning("task %s is cancelled, but nobody could be told: %r", task_id, exc)
            return f"removed; its result becomes REVOKED once the result backend answers: {exc}"
        for ref in raws:
            backlog.discard(ref, CANCELLED)
        return ""

    def _flush(self) -> None:
        """Let the traces of cancelled tasks be kept before this process ends."""
        recorder = Recorder.of(self._app)
        if recorder is not None:
            recorder.senders.stop()

    # Back to what plain Celery sees

    def _drain(self, queue: str, now: float, *, held: bool) -> Drained:
        lease = self._broker.lease(queue, owner=f"drain:{uuid4()}", kind="operator")
        keeper, levels = Keeper(TTL), self._levels[queue]
        backlog = self._broker.backlog(queue, clock=self._clock, beat=keeper.beat)
        keeper.hold(lease)
        try:
            lease.acquire()  # before the first look: a tick that began before the pause must park nothing after it
            with keeper.working():
                places = (OVERFLOW, HELD) if held else (OVERFLOW,)
                returned, merged = sum(self._return(backlog, lease, place, now) for place in places), 0
                while moved := levels.keep(levels.plain, lease.acquire(), seconds=1.0):
                    merged += moved
                    keeper.beat()
        finally:
            lease.release()
        return Drained(queue, returned, merged, backlog.count()[HELD])

    def _return(self, backlog: Backlog, lease: Lease, place: Place, now: float) -> int:
        """Bring back all that is parked in one place; the lease is taken anew for each chunk."""
        score = self._scorer(self._settings.policy, Context(now))
        bands = Bands.equal(len(self._broker.scale.levels))
        returned = 0
        while tasks := sorted(backlog.parked(place, now), key=lambda task: (-score(task), task.published)):
            before = returned
            for start in range(0, len(tasks), CHUNK):
                moves = [_back(task, place, score(task), bands, "drain") for task in tasks[start : start + CHUNK]]
                moves = [_put_in(move, self._broker.scale.plain) for move in moves]
                returned += backlog.apply(moves, lease.acquire()).count(Outcome.MOVED)
            if returned == before:  # others brought back all of them meanwhile, or these cannot be
                break
        return returned


def _put_in(move: Move, usable: Sequence[Place]) -> Move:
    """The same move, into one of these levels."""
    return replace(move, target=at_or_before(move.target, usable)) if is_level(move.target) else move


def _back(task: PendingTask, place: Place, score: float, bands: Bands, reason: str) -> Move:
    return Move(task, place, bands.level(score) if task.pinned is None else task.pinned, score, reason)
