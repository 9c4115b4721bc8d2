"""What a replay costs: seconds and memory for a long workload with many tasks pending.

``python -m bench.lab`` prints JSON; ``python -m bench`` runs it with the others. The workload is made up: bursts in
which more comes than the slots can do, so that about 1,000 tasks wait in the mean, of 20 names and 100 keys.
"""

from __future__ import annotations

import json
import math
import random
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

from celery_dynprio.lab.contenders import Production, contenders
from celery_dynprio.lab.measures import measures
from celery_dynprio.lab.recording import Task
from celery_dynprio.lab.replay import Fleet, replay
from celery_dynprio.policies import default_policy

WORKERS = 16
#: The offered load goes up and down around this, so much and with this period (in mean run times).
LOAD, SWING, PERIOD = 0.95, 0.65, 800.0


def run(*, quick: bool) -> dict[str, Any]:
    """Replay a workload under the default policy and the disciplines beside it."""
    return {f"{tasks:,} tasks": _measure(tasks) for tasks in ([10_000] if quick else [100_000, 1_000_000])}


def workload(tasks: int) -> Iterator[Task]:
    """Make up tasks, one at a time."""
    drawn = random.Random(1)
    at = 0.0
    for _ in range(tasks):
        rate = WORKERS * LOAD * (1 + SWING * math.sin(2 * math.pi * at / PERIOD))
        at += drawn.expovariate(rate)
        name = int(20 * drawn.random() ** 2)
        deadline = 30.0 if name % 4 == 0 else None
        key = f"key-{int(100 * drawn.random() ** 2)}"
        yield Task(at, f"task-{name}", drawn.expovariate(1.0), key, 1.0 + name % 5 * 2, deadline)


def _measure(tasks: int) -> dict[str, Any]:
    policy = default_policy()
    production = Production()
    chosen = contenders({"policy": policy}, production)
    if tasks > 100_000:  # noqa: PLR2004 - what is new there is the memory
        chosen = chosen[:1]
    return {each.name: _replay(tasks, each.make()) for each in chosen}


def _replay(tasks: int, discipline: Any) -> dict[str, Any]:
    began = time.process_time()
    record = replay(workload(tasks), discipline, Fleet(WORKERS))
    played = time.process_time()
    figures = measures(record)
    scale = 1024 if sys.platform == "darwin" else 1
    return {
        "seconds of the replay": round(played - began, 1),
        "seconds of the figures": round(time.process_time() - played, 1),
        "mean pending": round(figures.pending),
        "ticks": record.ticks,
        "moves a task": round(figures.moves_per_task, 2),
        "peak memory of the process, MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000 / scale),
    }


if __name__ == "__main__":
    json.dump(run(quick="--quick" in sys.argv), sys.stdout, indent=2)
    print()
