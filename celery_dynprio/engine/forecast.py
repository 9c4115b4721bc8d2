"""When a pending task will start: a range, in which the true moment is with a probability of 80 %. Pure.

Three things are uncertain, and each is drawn anew for each possible future: how long the tasks before it run, by their
learned spread; how far what was learned is off; and who arrives meanwhile and overtakes. Nobody knows the arrivals to
come. They are taken to be of the kinds that ran lately, in the same proportions, and to ask for :data:`LOAD` of what
the slots can do in the mean, now more and now less: bursts last longer than most waits, so that one factor, drawn from
an exponential distribution, holds for the whole of it. A new task overtakes if its score is above what this one's will
be at that moment.

How many of the ranges hold is measured: ``python -m bench calibration``.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from celery_dynprio.engine.draws import Range, range_of, rest
from celery_dynprio.engine.scene import Scene
from celery_dynprio.levels import Bands
from celery_dynprio.models import Context, PendingTask
from celery_dynprio.policies.base import Scorer
from celery_dynprio.runtimes import Runtimes

#: What arrives while tasks wait is taken to be so much of what the slots can do, in the mean; then less than all.
LOAD: Final = 0.7
MOST_LOAD: Final = 0.95

#: The deviation of the logarithm of the factor by which the learned mean of what waits is off.
DOUBT: Final = 0.25

#: In so many futures the tasks before it are drawn, each with so many drawn futures of arrivals.
FUTURES: Final = 39
ARRIVALS: Final = 3

#: Of more tasks before it, only the sum of the run times is drawn, which is all but normal.
SINGLE: Final = 2_000

#: Seconds from now at which newcomers are compared with the task.
MOMENTS: Final = (0.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0, 2560.0)


class _Kind(NamedTuple):
    """Tasks of one name and key."""

    name: str
    key: str | None


class _Rate(NamedTuple):
    """Until so many seconds from now, newcomers that overtake ask for such a share of the slots."""

    until: float
    load: float


def forecast(scene: Scene, index: int, bind: Callable[[Context], Scorer]) -> Range | None:
    """When the task of this turn starts (Unix seconds); None if nobody knows: no slot, or nothing learned.

    ``bind`` binds the policy in force. Equal arguments give the same range.
    """
    slots, now = sum(scene.slots.values()), scene.context.now
    if not slots or not scene.context.runtimes:
        return None
    task = scene.turns[index].task
    drawn = random.Random(task.ref)  # noqa: S311 - a simulation
    rates = _overtaking(scene, task, bind)
    starts = [
        now + _delayed(wait * math.exp(drawn.gauss(0.0, DOUBT)), rates, drawn.expovariate(1.0))
        for wait in _waits(scene, index, slots, drawn)
        for _ in range(ARRIVALS)
    ]
    return range_of(starts)


def _waits(scene: Scene, index: int, slots: int, drawn: random.Random) -> Iterator[float]:
    """Draw how long it takes until a slot is free after all that is before it has started: list scheduling."""
    runtimes, now = scene.context.runtimes, scene.context.now
    taken = [each for tasks in scene.taken.values() for each in tasks]
    running = [(runtimes.expected(each.task), now - each.since) for each in taken if each.since is not None]
    reserved = [each.task for each in taken if each.since is None]
    before = [*reserved, *(turn.task for turn in scene.turns[:index])]
    estimates = [known for known in map(runtimes.expected, before) if known is not None]
    far, near = estimates[:-SINGLE], estimates[-SINGLE:]
    mean = math.fsum(each.mean for each in far) / slots
    deviation = math.sqrt(math.fsum(each.deviation**2 for each in far)) / slots
    for _ in range(FUTURES):
        shift = max(drawn.gauss(mean, deviation), 0.0)
        free = [shift + rest(known, max(elapsed, 0.0), drawn.random()) for known, elapsed in running[:slots] if known]
        free += [shift] * (slots - len(free))
        heapq.heapify(free)
        for each in near:
            heapq.heapreplace(free, free[0] + each.mean * each.stretch(drawn.gauss(0.0, 1.0)))
        yield free[0]


def _overtaking(scene: Scene, task: PendingTask, bind: Callable[[Context], Scorer]) -> list[_Rate]:
    """How much of the slots newcomers take before it, from moment to moment: the less the older it is."""
    context = scene.context
    own = [_score(task, bind(replace(context, now=context.now + moment))) for moment in MOMENTS]
    score = bind(context)
    newest: dict[_Kind, PendingTask] = {}
    for turn in scene.turns:
        kind = _Kind(turn.task.name, turn.task.key)
        if kind not in newest or newest[kind].published < turn.task.published:
            newest[kind] = turn.task
    loads = [0.0] * len(MOMENTS)
    for kind, load in _mix(context.runtimes).items():
        pending = newest.get(kind)
        # Of a kind that never waits, it is not known what it scores; that it does not wait tells enough.
        fresh = math.inf if pending is None else _score(_published_now(pending, context.now), score)
        for place, mine in enumerate(own):
            if mine >= fresh:
                break
            loads[place] += load
    return [_Rate(*each) for each in zip((*MOMENTS[1:], math.inf), (LOAD * load for load in loads), strict=True)]


def _mix(runtimes: Runtimes) -> Mapping[_Kind, float]:
    """Which share of the time of all runs each kind of task took lately."""
    work: dict[_Kind, float] = {}
    keyed: dict[str, float] = {}
    for (name, key), runs in runtimes.pairs.items():
        work[_Kind(name, key)] = runs.seconds
        keyed[name] = keyed.get(name, 0.0) + runs.seconds
    for name, mean in runtimes.items():
        known = runtimes.names.get(name)
        work[_Kind(name, None)] = mean if known is None else max(known.seconds - keyed.get(name, 0.0), 0.0)
    total = math.fsum(work.values())
    return {kind: seconds / total for kind, seconds in work.items()} if total > 0 else {}


def _published_now(task: PendingTask, now: float) -> PendingTask:
    slack = None if task.deadline is None else task.deadline - task.published
    return replace(task, published=now, deadline=None if slack is None else now + slack)


def _score(task: PendingTask, score: Scorer) -> float:
    return score(task) if task.pinned is None else Bands.equal(10).middle(min(task.pinned, 9))


def _delayed(wait: float, rates: Sequence[_Rate], factor: float) -> float:
    """How long a wait becomes if newcomers take such a share of the slots, times a factor: a delay cycle.

    (Conway, Maxwell and Miller, Theory of Scheduling, 1967; here as a fluid.)
    """
    at, left = 0.0, 1.0
    for until, load in rates:
        left = 1.0 - min(load * factor, MOST_LOAD)
        if wait <= left * (until - at):
            break
        wait -= left * (until - at)
        at = until
    return at + wait / left
