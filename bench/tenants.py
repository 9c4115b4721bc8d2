"""The app of the fairness benchmark: one short task, of many tenants. ``BENCH_BROKER`` is where the broker is."""

from __future__ import annotations

import os
import time

import redis
from celery import Celery

from celery_dynprio import DynPrio, dynprio_task

#: What a task takes, in seconds.
RUN = 0.05


def make_app(broker: str) -> Celery:
    """Make the app for one side; each task notes in the list ``waits`` whose it is, and how long it waited."""
    made = Celery("tenants", broker=broker, set_as_current=False)
    made.conf.update(task_ignore_result=True, task_acks_late=True, worker_prefetch_multiplier=1)
    DynPrio(made)

    notes = redis.Redis.from_url(broker)

    def work(tenant: str, at: float) -> None:
        notes.rpush("waits", f"{tenant} {time.time() - at:.6f}")
        time.sleep(RUN)

    dynprio_task(app=made, name="work", key="tenant")(work)
    return made


if "BENCH_BROKER" in os.environ:
    app = make_app(os.environ["BENCH_BROKER"])
