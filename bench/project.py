"""The app of the throughput benchmark, as ``BENCH_APP`` says.

plain, dynprio, bare (the add-on, set neither to learn nor to keep traces), untraced (the add-on less its tracing),
monitored (the add-on with metrics, events and an objective), or recorded (the add-on with a recording, to the file
BENCH_RECORDING).

As a program it is a producer: for each line with a number on its input it publishes so many tasks, and answers with
the seconds that this took.
"""

from __future__ import annotations

import os
import sys
import time

from celery import Celery

#: Where the monitored app answers Prometheus.
METRICS_PORT = 19_808

#: In the producer this module is ``__main__``, in workers it is not: without a name of its own the task would have two.
TASK = "bench.work"

app = Celery("bench", broker=os.environ["BENCH_BROKER"])
app.conf.update(task_ignore_result=True, broker_transport_options={"priority_steps": list(range(10))})

if os.environ["BENCH_APP"] != "plain":
    from celery_dynprio import DynPrio, Objective, dynprio_task, logs
    from celery_dynprio.producer import publishing
    from celery_dynprio.tracing import failure_report

    app.conf.update(dynprio_queues=["celery"])
    if os.environ["BENCH_APP"] == "monitored":
        app.conf.update(dynprio_metrics_port=METRICS_PORT, dynprio_events=True)
        app.conf.dynprio_objectives = [Objective("work starts soon", "*.work", within=1)]
    if os.environ["BENCH_APP"] == "recorded":
        app.conf.dynprio_record = os.environ["BENCH_RECORDING"]
    app.conf.dynprio_trace = os.environ["BENCH_APP"] not in {"bare", "untraced"}
    app.conf.dynprio_learn = os.environ["BENCH_APP"] != "bare"
    dynprio = DynPrio(app)
    if os.environ["BENCH_APP"] == "untraced":
        # Runs are followed all the same, to learn from them; and headers are completed.
        logs.connections(app, lambda: dynprio.settings).disconnect()
        failure_report.connections(app).disconnect()
        vars(publishing)["new_traceparent"] = str
        dynprio._propagation.write = lambda *_: None  # type: ignore[method-assign]  # noqa: SLF001
        app.steps["consumer"].discard("celery_dynprio.worker.received:TraceReceived")
    task = dynprio_task(app=app, name=TASK, weight=5, deadline=3600, key="customer")
else:
    task = app.task(name=TASK)


@task
def work(customer: int, text: str) -> None:
    """Do nothing: what is measured is everything else."""


def publish(tasks: int) -> float:
    """Publish so many tasks; return the seconds that it took."""
    start = time.perf_counter()
    for n in range(tasks):
        work.delay(n % 50, "x" * 300)
    return time.perf_counter() - start


if __name__ == "__main__":
    for line in sys.stdin:
        print(publish(int(line)), flush=True)
