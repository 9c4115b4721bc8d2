"""And then? Plays what waits now forward under two policies, and tells who starts when under each.

Nothing new arrives. What is uncertain is how long tasks run: each possible future draws that from what was learned, and
both policies are played in the same futures (common random numbers), so that what differs is the policies' doing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from celery_dynprio.engine.draws import FEWEST, Draws, Range, range_of
from celery_dynprio.engine.ordering import Turn
from celery_dynprio.engine.scene import Scene, Taken
from celery_dynprio.engine.scores import Scores
from celery_dynprio.errors import ArgumentError, DynPrioError
from celery_dynprio.lab.contenders import Production
from celery_dynprio.lab.jobs import Job
from celery_dynprio.lab.learning import Continued
from celery_dynprio.lab.measures import mean
from celery_dynprio.lab.recording import Task
from celery_dynprio.lab.replay import Fleet, Opening, replay
from celery_dynprio.policies import Policy
from celery_dynprio.policies.ahead import with_pending

#: So many tasks are played unless something else is asked for, and in so many futures.
TASKS: Final = 1_000
FUTURES: Final = 19

#: A future has at most about so many ticks: of a backlog that lasts for hours, each tick stands for several.
TICKS: Final = 100


class Starts(NamedTuple):
    """When something starts, in seconds from now: under the policy in force, and under the one that is tried."""

    own: Range
    tried: Range

    @property
    def gain(self) -> float:
        """By how many seconds the one that is tried lets it start sooner, by the medians."""
        return self.own.median - self.tried.median


class Path(NamedTuple):
    """One task under both policies."""

    turn: Turn
    starts: Starts


class Group(NamedTuple):
    """The tasks of one name, or of one key: the mean of their starts."""

    name: str
    tasks: int
    starts: Starts


@dataclass(frozen=True, slots=True)
class Outlook:
    """What comes next in one queue under two policies."""

    queue: str
    #: The tasks that were played, in the order in which they start under the policy in force.
    paths: Sequence[Path]
    names: Sequence[Group]
    keys: Sequence[Group]
    #: When the last one has started.
    last: Starts | None
    #: How many others are pending, which were not played.
    left_out: int
    futures: int
    #: Seconds between two ticks, as played.
    tick: float
    slots: int


@dataclass(frozen=True, slots=True)
class Play:
    """How to play: so many ``tasks`` at most, in so many ``futures``, with a tick every ``tick`` seconds or more.

    ``production`` is what policies are carried out with; ``stopped`` is asked between two plays whether to give up.
    Raises :class:`~celery_dynprio.errors.ArgumentError` for fewer futures than a range is made of.
    """

    production: Production
    tick: float = 1.0
    tasks: int = TASKS
    futures: int = FUTURES
    stopped: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        if self.futures < FEWEST:
            raise ArgumentError("futures", self.futures, f"use {FEWEST} or more: fewer show no range")


class _Future(NamedTuple):
    """When each task starts, by its id, in seconds from now."""

    own: Mapping[str, float]
    tried: Mapping[str, float]


class OutlookStoppedError(DynPrioError):
    """Nobody waits for the outlook any more."""


def outlook(scene: Scene, own: Policy, tried: Policy, play: Play) -> Outlook:
    """Play a scene forward under both policies.

    Raises :class:`~celery_dynprio.errors.DynPrioError` if tasks wait and no worker takes from the queue, or no runtime
    was learned yet: then nobody knows when anything starts.
    """
    slots = sum(scene.slots.values())
    turns = chosen(scene, tried, play.tasks)
    left_out = scene.left_out + len(scene.turns) - len(turns)
    if not turns:
        return Outlook(scene.queue, (), (), (), None, left_out, play.futures, play.tick, slots)
    if not slots:
        raise DynPrioError(f"queue {scene.queue!r}: no worker that takes from it answers, so nothing would start")
    if not scene.context.runtimes:
        raise DynPrioError(f"queue {scene.queue!r}: no runtime has been learned yet (see dynprio_learn)")
    player = _Player(scene, turns, _tick(scene, turns, slots, play.tick), play)
    futures = [player.future(own, tried, seed) for seed in range(play.futures)]
    paths = [Path(turn, _starts(futures, (turn,))) for turn in turns]
    paths.sort(key=lambda path: path.starts.own.median)
    return Outlook(
        scene.queue,
        paths,
        _groups(futures, turns, lambda turn: turn.task.name),
        _groups(futures, turns, lambda turn: turn.task.key or ""),
        Starts(*(range_of([max(each[side].values()) for each in futures]) for side in (0, 1))),
        left_out,
        play.futures,
        player.tick,
        slots,
    )


def chosen(scene: Scene, tried: Policy, most: int) -> list[Turn]:
    """The tasks to play, at most so many: those that are first now, and those that are first by the other policy."""
    unique = list({turn.task.id: turn for turn in reversed(scene.turns)}.values())[::-1]
    if len(unique) <= most:
        return unique
    known = with_pending(scene.context, [turn.task for turn in unique], tried)
    score = Scores(tried, lambda _: None).bind(known)
    by_score = sorted(unique, key=lambda turn: (-score(turn.task), turn.task.published))
    found: dict[str, Turn] = {}
    for pair in zip(unique, by_score, strict=True):
        for turn in pair:
            if len(found) < most:
                found.setdefault(turn.task.id, turn)
    return [turn for turn in unique if turn.task.id in found]


def _tick(scene: Scene, turns: Sequence[Turn], slots: int, least: float) -> float:
    expected = (scene.context.runtimes.expected(turn.task) for turn in turns)
    work = sum(each.mean for each in expected if each is not None)
    return max(least, work / slots / TICKS)


@dataclass(frozen=True, slots=True)
class _Player:
    scene: Scene
    turns: Sequence[Turn]
    tick: float
    play: Play

    def future(self, own: Policy, tried: Policy, seed: int) -> _Future:
        draws = Draws(self.scene.context.runtimes, seed)
        return _Future(self._starts(own, draws), self._starts(tried, draws))

    def _starts(self, policy: Policy, draws: Draws) -> Mapping[str, float]:
        if self.play.stopped():
            raise OutlookStoppedError("nobody waits for it any more")
        now, started = self.scene.context.now, dict[str, float]()

        def note(job: Job, at: float) -> None:
            if job.index >= 0:
                started[job.pending.id] = at - now

        # A tick that stands for several may do as much as they.
        budget = self.play.production.budget * self.tick / self.play.tick
        production = replace(self.play.production, budget=budget)
        discipline = production.planned(policy, Continued(self.scene.context, production.half_life))
        discipline.load((_waiting(index, turn, draws, now), turn.place) for index, turn in enumerate(self.turns))
        discipline.tick(now)
        replay((), discipline, Fleet(None), tick=self.tick, opening=self._opening(draws), started=note)
        return started

    def _opening(self, draws: Draws) -> Opening:
        scene, now = self.scene, self.scene.context.now
        taken = {worker: [_taken(each, draws, now) for each in tasks] for worker, tasks in scene.taken.items()}
        return Opening(now, scene.slots, scene.ahead, taken)


def _waiting(index: int, turn: Turn, draws: Draws, now: float) -> Job:
    task = turn.task
    return Job(index, Task(task.published, task.name, draws.run(task), task.key, task.weight), task, (), now)


def _taken(taken: Taken, draws: Draws, now: float) -> Job:
    task = taken.task
    return Job(-1, Task(now, task.name, draws.rest(taken, now), task.key), task, (), now)


def _starts(futures: Sequence[_Future], turns: Sequence[Turn]) -> Starts:
    ids = [turn.task.id for turn in turns]
    own, tried = (range_of([mean([each[side][task_id] for task_id in ids]) for each in futures]) for side in (0, 1))
    return Starts(own, tried)


def _groups(
    futures: Sequence[_Future],
    turns: Sequence[Turn],
    of: Callable[[Turn], str],
) -> list[Group]:
    """The groups, those between which the policies differ most first, all their tasks counted."""
    members: defaultdict[str, list[Turn]] = defaultdict(list)
    for turn in turns:
        members[of(turn)].append(turn)
    found = [Group(name, len(each), _starts(futures, each)) for name, each in members.items()]
    return sorted(found, key=lambda group: (-abs(group.starts.gain) * group.tasks, group.name))
