"""What an operator can do to pending tasks: behind the command line, the methods of ``DynPrio`` and the Flower page."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from celery_dynprio import message
from celery_dynprio.errors import ArgumentError, OptionError
from celery_dynprio.levels import Bands, at_or_before
from celery_dynprio.models import CANCELLED, HELD, OVERFLOW, Context, Move, PendingTask, Place
from celery_dynprio.operators.cancelling import Cancelling
from celery_dynprio.operators.draining import Drain, Drained, move_back
from celery_dynprio.operators.fates import Fate
from celery_dynprio.operators.identity import operator
from celery_dynprio.operators.revocation import PLAIN, WorkerHooks
from celery_dynprio.operators.scoring import scorer
from celery_dynprio.operators.selection import Filter
from celery_dynprio.operators.sharing import Sharing
from celery_dynprio.operators.sightings import Selection, Sightings
from celery_dynprio.operators.steering import Deed, Operation, Result, Steering, results_of, with_other
from celery_dynprio.operators.views import Views
from celery_dynprio.operators.waiting import read_waiting
from celery_dynprio.operators.workers import Workers
from celery_dynprio.ports.broker import Broker, Found
from celery_dynprio.ports.guidance import STALE
from celery_dynprio.ports.stores import SetShare
from celery_dynprio.settings import Settings
from celery_dynprio.task import call_fields
from celery_dynprio.untrusted import clean

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger("celery_dynprio.operations")


class Operations(Views):
    """The operator's side of the managed queues of one broker.

    Each operation on a task is atomic against workers, reprioritizers and other operators, and is kept in the audit
    together with ``by``, who does it, and ``why``. What is set by hand is in the task's message from then on: no tick
    undoes it. Tasks are given by their ids, or as a :class:`~celery_dynprio.operators.sightings.Selection`.
    ``clock`` gives Unix seconds; the broker's, if it is None. ``hooks`` is what the ends of cancelled tasks go through.
    Raises what the broker's client raises: see ``broker.errors``.
    """

    def __init__(
        self,
        app: Celery,
        broker: Broker,
        settings: Settings,
        by: str | None = None,
        clock: Callable[[], float] | None = None,
        *,
        hooks: WorkerHooks = PLAIN,
    ) -> None:
        super().__init__(app, broker, settings, clock)
        self._by = operator() if by is None else by
        self._backlogs = {queue: broker.backlog(queue, clock=self._clock) for queue in settings.queues}
        self._sharing = Sharing(broker.stores.shares(), self._clock)
        self._levels = {queue: broker.levels(queue) for queue in settings.queues}
        self._cancelling = Cancelling(app, broker, self._backlogs, by=self._by, clock=self._clock, hooks=hooks)

    def hold(self, tasks: Iterable[str] | Selection, why: str = "") -> list[Result]:
        """Take tasks out of the workers' reach until they are released, whatever restarts meanwhile."""

        def deed(found: Found) -> Deed:
            if found.place == HELD:
                return "already held"
            return Move(found.task, found.place, HELD, 0.0, "hold")

        return self._steer("hold", tasks, deed, why)

    def release(self, tasks: Iterable[str] | Selection, why: str = "") -> list[Result]:
        """Bring held tasks back to where they belong by their score, or to the level they are pinned to."""
        now = self._clock()
        score = scorer(self._settings.policy, self._context(now))
        bands = Bands.equal(len(self._broker.scale.levels))

        def deed(found: Found) -> Deed:
            if found.place != HELD:
                return "not held"
            return move_back(found.task, HELD, score(found.task), bands, "release")

        return self._steer("release", tasks, deed, why)

    def bump(self, tasks: Iterable[str] | Selection, why: str = "") -> list[Result]:
        """Make tasks the next to run: before all others in level 0, and pinned there; of several the first runs first.

        As Slurm's ``scontrol top``. A held task stays held, and goes first once it is released.
        """

        def deed(found: Found) -> Deed:
            if found.place == HELD:
                return Move(found.task, HELD, HELD, 1.0, "bump", {"pin": 0})
            return Move(found.task, found.place, 0, 1.0, "bump", {"pin": 0}, first=True)

        return self._steer("bump", tasks, deed, why, backwards=True)

    def reprioritize(
        self, tasks: Iterable[str] | Selection, changes: Mapping[str, object], why: str = ""
    ) -> list[Result]:
        """Change what the policy knows of tasks, or pin them.

        In ``changes``: ``weight``, 0 to 10; ``deadline``, seconds from now by which they should start, None for none;
        ``key``, the fairness key, None for none; ``level``, which they are pinned to (0 the first), None to let the
        policy decide. They move with the next tick; to a level at once. Raises
        :class:`~celery_dynprio.errors.ArgumentError` for what is not allowed.
        """
        now = self._clock()
        fields = self._fields(changes, now)
        score = scorer(self._settings.policy, self._context(now))
        bands = Bands.equal(len(self._broker.scale.levels))

        def deed(found: Found) -> Deed:
            task = message.changed(found.task, fields, bands.count)
            target = found.place
            if found.place != HELD and task.pinned is not None:
                target = task.pinned
            elif found.place == OVERFLOW:  # whoever leads knows of it only what it was when it was parked
                target = bands.level(score(task))
            return Move(found.task, found.place, target, score(task), "reprioritize", fields)

        return [self._not_yet(result, fields.get("pin")) for result in self._steer("reprioritize", tasks, deed, why)]

    def cancel(self, tasks: Iterable[str] | Selection, why: str = "") -> list[Result]:
        """Remove tasks from the broker, at once and for good; their results become REVOKED.

        Also with no worker up. What waits for them fails as it does when a worker finds a revoked task. If this process
        dies half-way, another one goes on: see :meth:`finish`. Workers are told to discard those that they have taken
        and not started, and those of which nothing is known. What runs is not terminated.
        """

        def deed(found: Found) -> Deed:
            return Move(found.task, found.place, CANCELLED, 0.0, "cancel")

        cancelling = self._cancelling
        cancelling.show_life()
        results = self._steer("cancel", tasks, deed, why, elsewhere=cancelling.discard_at_workers)
        removed = {result.id: result for result in results if result.messages}
        for task_id, result in removed.items():
            cancelling.show_life()
            problem = cancelling.publish_end(result.queue, task_id, result.messages)
            removed[task_id] = replace(result, detail=problem or result.detail)
        # Another message with the same id: published twice, or given back because it was not acknowledged in time.
        others = self._fates.at_workers(list(removed))
        for result in cancelling.discard_at_workers(others) if others else ():
            removed[result.id] = with_other(removed[result.id], result)
        cancelling.flush()
        return [removed.get(result.id, result) for result in results]

    def finish(self) -> int:
        """Publish the ends of some tasks that were cancelled by a process that then died; return how many.

        For about half a second, so that a tick is not late: the next call goes on. While any operator cancels, and for
        a while after the result backend did not answer, nothing.
        """
        return self._cancelling.finish()

    def pause(self, why: str = "") -> None:
        """Stop all moves of all reprioritizers on this broker from their next tick on; workers go on."""
        self._switch.pause()
        self._note("pause", why)

    def resume(self, why: str = "") -> None:
        """Let the reprioritizers move again."""
        self._switch.resume()
        self._note("resume", why)

    def shares(self) -> Sequence[SetShare]:
        """The shares that were set by :meth:`set_share` and count now, sorted by key."""
        return self._sharing.all()

    def set_share(self, key: str, share: float, seconds: float | None = None, why: str = "") -> SetShare:
        """Give a key another share than the policy does, for so many ``seconds`` (None: for ever).

        It counts from the next tick on, wherever the policy has a fair share. "" is the key of tasks without one.
        Raises :class:`~celery_dynprio.errors.ArgumentError` for what is not allowed.
        """
        found = self._sharing.set(key, share, seconds)
        lasting = "" if seconds is None else f" for {seconds:g} s"
        self._note("share", why, answer=clean(f"{key or 'no key'}: {share:g}{lasting}"))
        return found

    def remove_share(self, key: str, why: str = "") -> bool:
        """Let the policy tell the share of a key again; return whether one was set."""
        removed = self._sharing.remove(key)
        if removed:
            self._note("share", why, answer=clean(f"{key or 'no key'}: removed"))
        return removed

    def drain(self, now: float | None = None, *, held: bool = False, why: str = "") -> list[Drained]:
        """Pause, and bring all overflow back to the front, best first (``held``: the held tasks too).

        After it, everything that is pending is an ordinary message in a list that workers without the add-on take from;
        levels in between join the one before them, in order. ``now`` is Unix seconds.
        """
        now = self._clock() if now is None else now
        self._switch.pause()
        self._note("drain", why)
        drain = Drain(self._broker, scorer(self._settings.policy, Context(now)), now, self._clock)
        drained = [drain.run(queue, held=held) for queue in self._settings.queues]
        if not drain.stragglers:
            return drained
        time.sleep(STALE)  # until then, producers may publish to levels in between
        return [drain.finish(each) for each in drained]

    def select(self, wanted: Filter, limit: int | None = None) -> Selection:
        """Return the pending tasks that a filter selects, of which an operation finds most without another look.

        At most ``limit``, those that run next. Raises :class:`~celery_dynprio.errors.ArgumentError` for a queue that is
        not managed.
        """
        if not wanted.selective:
            listing = self.pending(wanted, limit, Workers())
            return Selection([turn.task.id for turn in listing.turns], listing.matching, listing.missed)
        context = self._context(self._clock())
        ids: list[str] = []
        missed = 0
        sightings: dict[str, Sightings] = {}
        for queue in self._queues(wanted.queue):
            scan = self._backlogs[queue].scan(context.now)
            sightings[queue] = Sightings(scan, partial(_selects, wanted, context.now))
            waiting = read_waiting(scan, self._broker.scale.levels, wanted.trace, sightings[queue].observe)
            ids += [turn.task.id for turn in self._matching(queue, waiting, wanted, context, 0)]
            missed += waiting.missed
        return Selection(ids[:limit], len(ids), missed, sightings)

    def _steer(
        self,
        op: str,
        tasks: Iterable[str] | Selection,
        deed: Callable[[Found], Deed],
        why: str,
        *,
        backwards: bool = False,
        elsewhere: Callable[[Mapping[str, Fate]], list[Result]] = results_of,
    ) -> list[Result]:
        """Do one operation to all messages of these tasks, and keep it in the log; the results are in order."""
        selection = tasks if isinstance(tasks, Selection) else Selection.of(list(tasks))
        note = json.dumps({"op": op, "by": self._by, "why": clean(why)})
        operation = Operation(deed, note, backwards, elsewhere)
        usable = {queue: levels.now for queue, levels in self._levels.items()}
        steering = Steering(operation, selection, self._backlogs, usable=usable, fates=self._fates, clock=self._clock)
        return steering.run(lambda result: self._note(op, why, id=result.id, answer=result.answer.value))

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
            self._audit.add(op=op, by=self._by, why=clean(why), **more)
        except self._broker.errors.refusals as exc:
            logger.warning("%s: the broker refused to keep it in the log of operations: %s", op, exc)

    def _fields(self, changes: Mapping[str, object], now: float) -> dict[str, Any]:
        """The fields of the message's header that these changes are."""
        if not changes:
            raise ArgumentError("changes", changes, "give weight, deadline, key or level")
        options = {name: value for name, value in changes.items() if name != "level"}
        try:
            fields = call_fields("", options, now)
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


def _selects(wanted: Filter, now: float, place: Place, task: PendingTask, traced: bool) -> bool:  # noqa: FBT001 - a callback
    return wanted.matches(task, place, now) and (wanted.trace is None or traced)
