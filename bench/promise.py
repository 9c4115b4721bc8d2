"""The app of the objectives benchmark: short checkouts and long reports on the same workers.

``BENCH_BROKER`` is where the broker is, ``BENCH_ON_BREACH`` is "degrade" or empty.
"""

from __future__ import annotations

import os
import time

from celery import Celery

from celery_dynprio import DynPrio, Objective, Weight, dynprio_task


def checkout() -> None:
    """Urgent and short."""
    time.sleep(0.05)


def report() -> None:
    """Neither; while it has a slot, nothing else has, whatever its level."""
    time.sleep(2.0)


def make_app(broker: str, on_breach: str) -> Celery:
    """Make the app for one side."""
    degrade = on_breach == "degrade"
    promise = Objective(
        "checkouts start in time",
        match="checkout",
        within=0.5,
        target=0.9,
        window=20,
        on_breach="degrade" if degrade else None,
        expendable="report" if degrade else (),
    )
    made = Celery("promise", broker=broker, set_as_current=False)
    made.conf.update(
        task_ignore_result=True,
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        dynprio_embedded=False,
        dynprio_interval=0.5,
        dynprio_policy=1 * Weight(),
        dynprio_objectives=[promise],
    )
    DynPrio(made)
    dynprio_task(app=made, name="checkout", weight=10)(checkout)
    dynprio_task(app=made, name="report", weight=1)(report)
    return made


if "BENCH_BROKER" in os.environ:
    app = make_app(os.environ["BENCH_BROKER"], os.environ["BENCH_ON_BREACH"])
