"""The app of the throughput benchmark: plain, or with the add-on, as ``BENCH_APP`` says."""

from __future__ import annotations

import os
import sys
import time

import redis
from celery import Celery

BROKER = os.environ["BENCH_BROKER"]

app = Celery("bench", broker=BROKER)
app.conf.update(task_ignore_result=True, broker_transport_options={"priority_steps": list(range(10))})
done = redis.Redis.from_url(BROKER)

if os.environ["BENCH_APP"] == "dynprio":
    from celery_dynprio import DynPrio, dynprio_task

    app.conf.update(dynprio_queues=["celery"])
    dynprio = DynPrio(app)
    task = dynprio_task(app=app, weight=5, deadline=60, key="customer")
else:
    task = app.task


@task
def work(customer: int, text: str) -> None:  # noqa: ARG001 - the arguments are the load
    done.incr("done")


def publish(tasks: int) -> float:
    """Tasks a second that this process publishes."""
    work.delay(0, "x" * 300)
    start = time.perf_counter()
    for n in range(tasks - 1):
        work.delay(n % 50, "x" * 300)
    return (tasks - 1) / (time.perf_counter() - start)


if __name__ == "__main__":
    print(publish(int(sys.argv[1])))
