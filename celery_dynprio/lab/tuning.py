"""Tunes a policy: searches on the first part of a recording, and judges what it found on the rest.

What is best on the part that was searched is partly luck. So only what is better on the other part counts, by more than
its noise, and with all comparisons judged together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

from celery_dynprio.errors import ArgumentError
from celery_dynprio.lab.comparison import (
    OVERALL,
    Duel,
    Measure,
    duel,
    is_better,
    is_clear,
    measures_of_classes,
    of_classes,
)
from celery_dynprio.lab.contenders import PLAIN, Contender, Production
from celery_dynprio.lab.lookup import measure_named
from celery_dynprio.lab.measures import Measures, measures
from celery_dynprio.lab.recording import Extent, Task, extent
from celery_dynprio.lab.replay import Fleet, replay
from celery_dynprio.lab.search import Searched, Trial, Values
from celery_dynprio.lab.study import Study, classes, study
from celery_dynprio.lab.workload import BLOCKS, Workload
from celery_dynprio.policies import Policy

#: What is aimed at if nothing is said, and the second one if tasks have deadlines.
USUAL: Final = ("weighted mean wait", "started in time")

#: A part with fewer tasks tells nothing.
LEAST: Final = 5 * BLOCKS


@dataclass(frozen=True, slots=True)
class Split:
    """A recording cut in two by time."""

    first: Sequence[Task]
    rest: Sequence[Task]
    #: The class of a task, the same in both parts.
    group: Callable[[Task], str]

    @classmethod
    def of(cls, workload: Workload, share: float, by: str) -> Split:
        """The tasks of the first ``share`` of the time, in (0, 1), and the rest; ``by`` is one of the classes.

        Raises :class:`~celery_dynprio.errors.ArgumentError` if there are too few tasks in a part.
        """
        tasks = [each for each in workload.recorded() if isinstance(each, Task)]
        found = extent(tasks)
        cut = found.first + share * found.seconds
        first = [each for each in tasks if each.at < cut]
        rest = tasks[len(first) :]
        if min(len(first), len(rest)) < LEAST:
            parts = f"{len(first):,} tasks are in the first part and {len(rest):,} in the rest"
            raise ArgumentError("split", share, f"{parts}; use {LEAST} or more in each, from a longer recording")
        return cls(first, rest, classes(workload.recording, by))


@dataclass(frozen=True, slots=True)
class Stage:
    """Where policies play."""

    fleet: Fleet
    production: Production
    #: Seconds.
    tick: float

    def play(self, tasks: Sequence[Task], group: Callable[[Task], str], policy: Policy) -> Measures:
        """Play these tasks once under a policy."""
        return measures(replay(tasks, self.production.planned(policy), self.fleet, tick=self.tick, group=group))


def objectives(texts: Sequence[str], found: Measures) -> list[Measure]:
    """The measures that are named, or the usual ones; each has to apply to what was found of the first part.

    Raises :class:`~celery_dynprio.errors.ArgumentError`.
    """
    known = [each for each in (*OVERALL, *measures_of_classes([found])) if each.of(found) is not None]
    if not texts:
        return [each for each in known if each.title in USUAL]
    return list(dict.fromkeys(measure_named("--objective", text, known) for text in texts))


def values(measures_of: Sequence[Measure], found: Measures) -> Values:
    """What was attained in each of the objectives; they apply, as to all replays of the same tasks."""
    return tuple(value for each in measures_of if (value := each.of(found)) is not None)


class Candidate(NamedTuple):
    """A policy of the front, and how it stands against the present one on the rest of the recording."""

    name: str
    policy: Policy
    #: What it attained on the first part.
    searched: Values
    #: The objectives in which it is better or worse beyond the noise, and those in which it is neither.
    better: Sequence[Duel]
    worse: Sequence[Duel]
    unclear: Sequence[Duel]
    #: What else it is clearly worse in, though it is none of the objectives.
    costs: Sequence[Duel]

    @property
    def is_gain(self) -> bool:
        """Whether it is better in some objective, and worse in none."""
        return bool(self.better) and not self.worse

    @property
    def is_trade(self) -> bool:
        """Whether it is better in some objective, and worse in another one."""
        return bool(self.better and self.worse)


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of the candidates on the rest of the recording."""

    study: Study
    #: The name of the present policy.
    own: str
    objectives: Sequence[Measure]
    candidates: Sequence[Candidate]

    @property
    def comparisons(self) -> int:
        """How many differences are judged together."""
        return len(self.candidates) * len(self.objectives)


@dataclass(frozen=True, slots=True)
class Tuned:
    """What tuning found."""

    #: The share of the time that was searched, and what it comprises.
    share: float
    first: Extent
    searched: Searched
    judged: Judged


def players(stage: Stage, own: tuple[str, Policy], chosen: Sequence[Trial]) -> list[Contender]:
    """Who plays the rest: the present policy, the candidates as A, B, C, ..., and a plain queue beside them."""
    named = zip(map(letter, range(len(chosen))), chosen, strict=True)
    return [
        stage.production.contender(*own),
        *(stage.production.contender(name, each.policy) for name, each in named),
        PLAIN[0],
    ]


def letter(number: int) -> str:
    """A, B, ..., Z, A1, B1, ..."""
    return f"{chr(ord('A') + number % 26)}{number // 26 or ''}"


def judge(
    split: Split,
    stage: Stage,
    own: tuple[str, Policy],
    chosen: Sequence[Trial],
    aims: Sequence[Measure],
    *,
    seeds: int = 40,
    progress: Callable[[], object] = lambda: None,
) -> Judged:
    """Play the rest under all of them, with its blocks in ``seeds`` random orders (20 or more)."""
    workload = Workload(partial(iter, split.rest))
    contenders = players(stage, own, chosen)
    found = study(workload, contenders, stage.fleet, tick=stage.tick, seeds=seeds, by=split.group, progress=progress)
    comparisons = len(chosen) * len(aims)

    def judged(number: int, trial: Trial) -> Candidate:
        name = letter(number)
        duels = [each for aim in aims if (each := duel(found, name, own[0], aim, comparisons)) is not None]
        clear = [each for each in duels if is_clear(each)]
        better, worse = ([each for each in clear if is_better(each) is good] for good in (True, False))
        unclear = [each for each in duels if each not in clear]
        return Candidate(name, *trial, better, worse, unclear, _costs(found, name, own[0], aims))

    return Judged(found, own[0], aims, [judged(number, each) for number, each in enumerate(chosen)])


def _costs(found: Study, name: str, own: str, aims: Sequence[Measure]) -> list[Duel]:
    """In what a policy is clearly worse beside the objectives, the most first."""
    titles = {each.title for each in aims}
    others = [each for each in (*OVERALL, *of_classes(found)) if each.title not in titles]
    duels = [each for measure in others if (each := duel(found, name, own, measure)) is not None]
    lost = [each for each in duels if is_clear(each) and not is_better(each)]
    return sorted(lost, key=lambda each: -each.relative)
