"""How near the planner comes to exact score order, on a slice of a real arrival process.

The log is NASA Ames's iPSC/860 log of 1993 from the Parallel Workloads Archive (collected by Bill Nitzberg, converted
by Dror Feitelson).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from celery_dynprio.lab.contenders import Production
from celery_dynprio.lab.disciplines import Discipline, FirstCome
from celery_dynprio.lab.formats import swf
from celery_dynprio.lab.measures import measures
from celery_dynprio.lab.recording import Entry
from celery_dynprio.lab.replay import Fleet, replay
from celery_dynprio.lab.users import Users
from celery_dynprio.lab.workload import Workload
from celery_dynprio.policies import Age, Weight

TRACE = Path(__file__).parents[3] / "shared" / "traces" / "nasa-ipsc-1993-first-half.swf.gz"
WORKERS = 8
POLICY = 3 * Weight() + 1 * Age(saturation=60)
PRODUCTION = Production()

pytestmark = pytest.mark.skipif(
    not TRACE.exists(), reason=f"the workload trace {TRACE.name} is not beside the checkout"
)


def jobs() -> Iterator[Entry]:
    """A slice of the log; the weight is the user's."""
    for task in islice(swf.read(TRACE, Users()), 3000, 4500):
        yield task._replace(weight=float(int(task.key or 0) * 7 % 11), run=max(task.run, 1.0))


def weighted_mean_wait(load: float, discipline: Discipline) -> float:
    workload = Workload(jobs, WORKERS, load, mean_run=1.0)
    return measures(replay(workload.recorded(), discipline, Fleet(WORKERS))).weighted_wait


@pytest.mark.parametrize(("load", "moves"), [(0.95, 3), (1.1, 5)])
def test_most_of_the_gain_of_exact_order_with_few_moves(load: float, moves: float) -> None:
    planned = PRODUCTION.planned(POLICY)
    first_come = weighted_mean_wait(load, FirstCome())
    best = weighted_mean_wait(load, PRODUCTION.exact(POLICY))
    gain = (first_come - weighted_mean_wait(load, planned)) / (first_come - best)
    assert best < 0.9 * first_come  # there is something to gain
    assert gain >= 0.85
    assert planned.moves / 1500 <= moves
