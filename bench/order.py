"""How good the order is: the lab's replay of heavy-tailed workloads, against exact score order and plain disciplines.

``python -m bench.order [--quick] [--swf FILE] [--tasks N]`` prints JSON; ``python -m bench`` runs it with the others.
Ten workloads are made up: users that come in sessions, tasks whose runtimes are log-normal by user and name (sigma
1.2), tiers as of a small company. ``--swf`` adds a log in Standard Workload Format. Everything is played on 8 slots
with a mean run of 1 s and a tick of 1 s, at loads of 0.8, 0.95 and 1.1, under the default policy, with and without a
shortest-first factor.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from celery_dynprio.lab.contenders import FIRST_COME, Contender, Kind, Production, contenders
from celery_dynprio.lab.formats import swf
from celery_dynprio.lab.measures import Measures, measures
from celery_dynprio.lab.recording import Entry, Recording, Task
from celery_dynprio.lab.replay import Fleet, replay
from celery_dynprio.lab.users import Users, tiers
from celery_dynprio.lab.workload import Workload
from celery_dynprio.policies import Policy, ShortestFirst, default_policy

WORKERS: Final = 8
LOADS: Final = (0.8, 0.95, 1.1)
WORKLOADS: Final = 10
USERS: Final = 20

#: Weight, share of the users and deadline.
TIERS: Final = "9:0.1:30s,5:0.3,1:0.6"

SHORTEST: Final = "shortest job (known run times)"


def run(*, quick: bool, log: Path | None = None, tasks: int = 4_000) -> dict[str, Any]:
    """Measure all workloads; ``log`` is one more, in Standard Workload Format, ``tasks`` how long each is at most."""
    chosen = dict(list(workloads(tasks).items())[: 2 if quick else WORKLOADS])
    if log is not None:
        chosen[log.name] = lambda: swf.read(log, Users(tiers(TIERS)))
    figures = {
        name: {f"{load:g}": _measure(recording, load, tasks) for load in (LOADS[1:2] if quick else LOADS)}
        for name, recording in chosen.items()
    }
    return {"summary": _summary(figures), "workloads": figures}


def workloads(tasks: int) -> dict[str, Recording]:
    """Return the workloads that are made up, by name."""

    def made(seed: int) -> Recording:
        return lambda: iter(sorted(made_up(seed, tasks)))

    return {f"synthetic {seed}": made(seed) for seed in range(WORKLOADS)}


def made_up(seed: int, tasks: int) -> Iterator[Task]:
    """Draw one workload: sessions of users, some of which publish hundreds of tasks at once."""
    drawn = random.Random(seed)
    users = Users(tiers(TIERS))
    habits = [(drawn.paretovariate(1.1), drawn.gauss(0.0, 1.0)) for _ in range(USERS)]
    at, count = 0.0, 0
    while count < tasks:
        at += drawn.expovariate(1.0) * (1.5 + math.sin(at / 40.0))
        number = drawn.choices(range(USERS), [share for share, _ in habits])[0]
        user, center = f"user-{seed}-{number}", habits[number][1]
        tier = users.tier(user)
        weight, deadline = (tier.weight, tier.deadline) if tier else (1.0, None)
        size = min(int(drawn.paretovariate(1.1)), tasks // 20, tasks - count)
        moment = at
        for _ in range(size):
            moment += drawn.expovariate(5.0)
            name = drawn.randrange(3)
            seconds = drawn.lognormvariate(center + name - 1.0, 1.2)
            yield Task(moment, f"task-{name}", seconds, user, weight, deadline)
        count += size


def _measure(recording: Recording, load: float, limit: int) -> dict[str, Any]:
    workload = Workload(recording, WORKERS, load, mean_run=1.0, limit=limit)
    policy = default_policy()
    found = {"default": _compare(workload, policy)}
    found["with shortest first"] = _compare(workload, policy + 3 * ShortestFirst(scale=1.0))
    return found


def _compare(workload: Workload, policy: Policy) -> dict[str, Any]:
    production = Production()
    played = {each.name: _play(workload, each) for each in contenders({"policy": policy}, production) if _wanted(each)}
    own, first, static = played["policy"], played[FIRST_COME], played["static priorities"]
    exact, shortest = played["policy, exact order"], played[SHORTEST]
    to_gain = first.weighted_wait - exact.weighted_wait
    return {
        "gain of exact order": _ratio(first.weighted_wait - own.weighted_wait, to_gain),
        "of first come, that is": _ratio(to_gain, first.weighted_wait),
        "moves a task": own.moves_per_task,
        "in time": own.in_time,
        "in time, static": static.in_time,
        "mean wait of first come's": _ratio(own.wait.mean, first.wait.mean),
        "of exact order": _ratio(exact.wait.mean, first.wait.mean),
        "of shortest job": _ratio(shortest.wait.mean, first.wait.mean),
        "longest wait of first come's": _ratio(own.wait.longest, first.wait.longest),
        "longest of exact order": _ratio(exact.wait.longest, first.wait.longest),
        "mean pending": own.pending,
    }


def _wanted(contender: Contender) -> bool:
    return contender.kind is not Kind.PLAIN or contender.name in {FIRST_COME, "static priorities"}


def _play(workload: Workload, contender: Contender) -> Measures:
    entries: Iterator[Entry] = workload.recorded()
    return measures(replay(entries, contender.make(), Fleet(WORKERS)))


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _summary(figures: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]]) -> dict[str, Any]:
    summary = {}
    for name in ("default", "with shortest first"):
        runs = [found[name] for loads in figures.values() for found in loads.values()]
        gains = [each["gain of exact order"] for each in runs if each["gain of exact order"] is not None]
        halved = [each["mean wait of first come's"] for each in runs if each["of shortest job"] <= 0.5]  # noqa: PLR2004
        behind = [each["in time"] - each["in time, static"] for each in runs if each["in time"] is not None]
        summary[name] = {
            "gain, mean": statistics.mean(gains),
            "gain, least": min(gains),
            "moves a task, most": max(each["moves a task"] for each in runs),
            "in time less static's, least": min(behind, default=None),
            "mean wait of first come's where shortest job halves it, most": max(halved, default=None),
            "longest wait of first come's, most": max(each["longest wait of first come's"] for each in runs),
        }
    return summary


def _rounded(found: Any) -> Any:
    if isinstance(found, float):
        return round(found, 3)
    return {key: _rounded(each) for key, each in found.items()} if isinstance(found, dict) else found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.order", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two workloads at one load")
    parser.add_argument("--swf", type=Path, help="one more workload")
    parser.add_argument("--tasks", type=int, default=4_000, help="the first tasks of each workload (default 4000)")
    options = parser.parse_args()
    json.dump(_rounded(run(quick=options.quick, log=options.swf, tasks=options.tasks)), sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
