"""How many of the ranges hold in which ``explain`` expects a task to start, by the lab's replay.

``python -m bench.calibration [--quick]`` prints JSON; ``python -m bench`` runs it with the others. At moments drawn at
random a few pending tasks are asked for; of 80 % ranges, 75 to 85 % should hold the moment at which the task then
started. The workloads are made up as those of :mod:`bench.order` ("bursts"), but others than the ones on which the
constants of :mod:`celery_dynprio.engine.forecast` were chosen; for comparison there is a smooth one, that of
:mod:`bench.lab`, which was among these.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Final

from bench import lab, order
from celery_dynprio.engine.draws import Range
from celery_dynprio.engine.forecast import forecast
from celery_dynprio.engine.ordering import order as turns_of
from celery_dynprio.engine.scene import Scene, Taken
from celery_dynprio.lab.contenders import Production
from celery_dynprio.lab.jobs import Job
from celery_dynprio.lab.learning import Learning
from celery_dynprio.lab.planned import Planned
from celery_dynprio.lab.recording import Entry
from celery_dynprio.lab.replay import Fleet, replay
from celery_dynprio.lab.workload import Workload
from celery_dynprio.policies import Policy, ShortestFirst, default_policy
from celery_dynprio.policies.ahead import with_pending

#: The length of a workload.
TASKS: Final = 4_000

#: The share of ticks after which somebody asks, and for how many tasks.
ASKED: Final = 0.08
EACH: Final = 3

#: The seeds of the workloads: not those of bench.order.
SEEDS: Final = range(10, 16)


@dataclass(frozen=True, slots=True)
class Answer:
    """What was expected of a task, how many were ahead, and when it was asked, in Unix seconds."""

    task: str
    at: float
    expected: Range
    ahead: int


class Asked:
    """A policy as production carries it out, that is asked now and then."""

    def __init__(self, planned: Planned, learning: Learning, policy: Policy, seed: int) -> None:
        self._planned, self._learning, self._policy = planned, learning, policy
        self.moves, self.broker_seconds = 0, 0.0
        self._drawn = random.Random(seed)
        self._running: dict[str, Taken] = {}
        self.starts: dict[str, float] = {}
        self.answers: list[Answer] = []

    def __len__(self) -> int:
        return len(self._planned)

    def publish(self, job: Job, now: float) -> None:
        """Put it where its producer puts it."""
        self._planned.publish(job, now)

    def give_back(self, job: Job) -> None:
        """Take it back."""
        self._planned.give_back(job)

    def take(self, now: float) -> Job | None:
        """Hand out the next one."""
        return self._planned.take(now)

    def started(self, job: Job, now: float) -> None:
        """Note when it started."""
        self.starts[job.pending.id] = now
        self._running[job.pending.id] = Taken(job.pending, now)
        self._planned.started(job, now)

    def ended(self, job: Job, seconds: float, now: float) -> None:
        """Learn from a run."""
        del self._running[job.pending.id]
        self._planned.ended(job, seconds, now)

    def tick(self, now: float) -> None:
        """Put what waits in order; now and then, ask."""
        self._planned.tick(now)
        if self._drawn.random() < ASKED:
            self._ask(now)

    def _ask(self, now: float) -> None:
        snapshot = self._planned.waiting(now)
        pending = [*chain.from_iterable(snapshot.levels), *snapshot.overflow.values()]
        context = with_pending(self._learning.context(now), pending, self._policy)
        turns = list(turns_of("lab", snapshot, [], self._policy.bind(context), now))
        slots = {f"w{number}": 1 for number in range(order.WORKERS)}
        taken = {worker: [each] for worker, each in zip(slots, self._running.values(), strict=False)}
        scene = Scene("lab", context, turns, slots, taken=taken)
        for index in self._drawn.sample(range(len(turns)), min(EACH, len(turns))):
            expected = forecast(scene, index, self._policy.bind)
            if expected is not None:
                self.answers.append(Answer(turns[index].task.id, now, expected, index))


def run(*, quick: bool) -> dict[str, Any]:
    """Measure all workloads and policies, with what holds by load, by policy and by how many tasks are ahead."""
    named: dict[str, Callable[[], Iterable[Entry]]] = {"smooth": lambda: lab.workload(TASKS)}
    for seed in SEEDS[:1] if quick else SEEDS:
        named[f"bursts {seed}"] = partial(_bursts, seed)
    policies = {"default": default_policy(), "with shortest first": default_policy() + 3 * ShortestFirst(scale=1.0)}
    figures: defaultdict[str, list[tuple[Answer, float]]] = defaultdict(list)
    for name, recording in named.items():
        for load in order.LOADS[1:2] if quick else order.LOADS:
            for policy_name, policy in policies.items():
                for answer, started in _asked(recording, load, policy):
                    kind = "smooth" if name == "smooth" else "bursts"
                    for part in ("all", policy_name, f"load {load:g}", _depth(answer.ahead)):
                        figures[f"{kind}, {part}"].append((answer, started))
    return {group: _figures(answers) for group, answers in sorted(figures.items())}


def _bursts(seed: int) -> Iterable[Entry]:
    return sorted(order.made_up(seed, TASKS))


def _asked(recording: Callable[[], Iterable[Entry]], load: float, policy: Policy) -> list[tuple[Answer, float]]:
    production = Production()
    learning = Learning(production.half_life)
    asked = Asked(production.planned(policy, learning), learning, policy, seed=1)
    workload = Workload(lambda: iter(recording()), order.WORKERS, load, mean_run=1.0, limit=TASKS)
    replay(workload.recorded(), asked, Fleet(order.WORKERS))
    return [(each, asked.starts[each.task]) for each in asked.answers]


def _depth(ahead: int) -> str:
    return (
        "0 to 7 ahead"
        if ahead < order.WORKERS
        else "8 to 39 ahead"
        if ahead < 5 * order.WORKERS
        else "40 ahead or more"
    )


def _figures(answers: list[tuple[Answer, float]]) -> dict[str, float]:
    waits = [started - each.at for each, started in answers]
    widths = [(each.expected.high - each.expected.low) for each, _ in answers]
    return {
        "asked": len(answers),
        "held": _share(each.expected.low - 1e-6 <= started <= each.expected.high + 1e-6 for each, started in answers),
        "started before": _share(started < each.expected.low - 1e-6 for each, started in answers),
        "started after": _share(started > each.expected.high + 1e-6 for each, started in answers),
        "started after the median": _share(started > each.expected.median for each, started in answers),
        "median wait, s": round(statistics.median(waits), 1),
        "median width, s": round(statistics.median(widths), 1),
    }


def _share(held: Iterable[bool]) -> float:
    return round(statistics.fmean(held), 3)


if __name__ == "__main__":
    json.dump(run(quick="--quick" in sys.argv), sys.stdout, indent=2)
    print()
