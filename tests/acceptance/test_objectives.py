"""An objective that is breached under load, with real workers and reprioritizers: degrading makes it recover."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from celery_dynprio import Filter
from celery_dynprio.errors import NotPendingError
from celery_dynprio.models import OVERFLOW
from celery_dynprio.monitoring.events import BREACHED, RECOVERED
from celery_dynprio.operators.workers import Workers
from tests.conftest import MakeProject, StartCelery, StartWorker
from tests.integration.test_monitoring import receiving
from tests.processes import wait_until
from tests.servers import Database, Kind

#: Reports take both slots again and again; checkouts are first in the order, and still wait for one.
BODY: Final = """
    import time
    from celery_dynprio import DynPrio, Objective, Weight, dynprio_task

    degrade = DEGRADE
    app.conf.update(
        dynprio_embedded=False, dynprio_interval=0.2, dynprio_policy=1 * Weight(), task_acks_late=True,
        worker_prefetch_multiplier=1, task_ignore_result=True,
        dynprio_objectives=[
            Objective("checkouts", "checkout", within=1.0, target=0.8, window=10, hook=print, **degrade)
        ],
    )
    dynprio = DynPrio(app)

    @dynprio_task(app=app, name="checkout", weight=10)
    def checkout(): ...

    @dynprio_task(app=app, name="report", weight=1)
    def report():
        time.sleep(3.0)
"""


@contextmanager
def publishing(tasks: Sequence[Any]) -> Iterator[None]:
    """Publish each of these tasks ten times a second, whatever the test waits for meanwhile."""
    stop = threading.Event()

    def publish() -> None:
        while not stop.wait(0.1):
            for task in tasks:
                task.delay()

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_degrading_makes_a_breached_objective_recover_and_nothing_else_does(
    open_database: Callable[[Kind], Database],
    make_project: MakeProject,
    start_worker: StartWorker,
    start_celery: StartCelery,
) -> None:
    sides = {}
    for name, degrade in (("plain", {}), ("degrading", {"on_breach": "degrade", "expendable": "report"})):
        project = make_project(open_database("valkey").url, BODY.replace("DEGRADE", repr(degrade)))
        module = project.load()
        reports = [module.report.delay().id for _ in range(300)]
        start_worker(project, name=name)
        sides[name] = (
            project,
            module,
            reports,
            start_celery(project, "dynprio", "run", name=f"run-{name}", ready_line="dynprio ready"),
        )

    breached, recovered = "'checkouts' is breached", "'checkouts' is met"
    seen: list[dict[str, Any]] = []
    project, module, reports, run = sides["degrading"]
    checkouts = [module.checkout for _, module, _, _ in sides.values()]
    with receiving(module.app, seen, BREACHED, RECOVERED) as receive, publishing(checkouts):
        wait_until(lambda: receive() or breached in run.logs(), 60)
        wait_until(lambda: "held back " in run.logs(), 60)
        with module.dynprio.operations() as operations:  # three commands take longer than a breach may last
            (standing,) = operations.objectives()
            assert standing.since is not None

            def is_held_back() -> bool:
                *_, last = operations.pending(Filter(task="report"), workers=Workers()).turns
                assert last.task.id in reports
                with suppress(NotPendingError):  # a breach may end, and the task start, before it is explained
                    explained = operations.explain(last.task.id)
                    return (explained.turn.place, explained.held_back_for) == (OVERFLOW, "checkouts")
                return False

            wait_until(is_held_back, 60)  # a breach may end, and come again

        wait_until(lambda: receive() or recovered in run.logs(), 120)
        wait_until(lambda: receive() or len(seen) > 1)
        with sides["plain"][1].dynprio.operations() as operations:
            plain = operations.stats(Workers())
    assert "holding back report, each for 600 s at most" in run.logs()
    assert [each["type"] for each in seen[:2]] == [BREACHED, RECOVERED]
    assert seen[0]["attained"] < 0.8 < seen[1]["attained"]
    assert run.logs().count("Standing(") >= 2, "the hook"

    _, _, _, run = sides["plain"]
    assert breached in run.logs()
    assert recovered not in run.logs()
    assert plain.objectives[0].attained is not None
    assert plain.objectives[0].attained < 0.8
    assert plain.queues[0].overflow == 0
