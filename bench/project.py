"""The app of the throughput benchmark, as ``BENCH_APP`` says.

plain, ranch (Celery Ranch, a peer), dynprio, bare (the add-on, set neither to learn nor to keep traces), untraced (the
add-on less its tracing), monitored (the add-on with metrics, events and an objective), or recorded (the add-on with a
recording, to the file BENCH_RECORDING).

As a program it is a producer: for each line with a number on its input it publishes so many tasks, and answers with
the seconds that this took, and with those that it had a processor for. After the word "group" it publishes them as a
group, after "batch" as a group that kombu sends in batches.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import nullcontext
from importlib import import_module

from celery import Celery, group

#: Where the monitored app answers Prometheus.
METRICS_PORT = 19_808

#: In the producer this module is ``__main__``, in workers it is not: without a name of its own the task would have two.
TASK = "bench.work"

app = Celery("bench", broker=os.environ["BENCH_BROKER"])
app.conf.update(task_ignore_result=True, broker_transport_options={"priority_steps": list(range(10))})

if os.environ["BENCH_APP"] == "ranch":
    ranch, prioritize = import_module("celery_ranch"), import_module("celery_ranch.utils.prioritize")

    prioritize.configure(app, config={"broker_url": os.environ["BENCH_BROKER"]})
    task = ranch.lru_task(app, name=TASK)
elif os.environ["BENCH_APP"] != "plain":
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


def publish(tasks: int) -> None:
    """Publish so many tasks one after the other."""
    for n in range(tasks):
        if os.environ["BENCH_APP"] == "ranch":
            work.lru_delay(str(n % 50), n % 50, "x" * 300)
        else:
            work.delay(n % 50, "x" * 300)


def publish_group(tasks: int, *, batch: bool) -> None:
    """Publish so many tasks at once."""
    parts = group([work.s(n % 50, "x" * 300) for n in range(tasks)], app=app)
    with app.producer_or_acquire() as producer, producer.batch() if batch else nullcontext():
        parts.apply_async(producer=producer)


def answer(line: str) -> str:
    """Do what a line asks for; return the seconds that it took, and those of the processor."""
    *how, tasks = line.split()
    start, took = time.perf_counter(), time.process_time()
    if how:
        publish_group(int(tasks), batch=how == ["batch"])
    else:
        publish(int(tasks))
    return f"{time.perf_counter() - start} {time.process_time() - took}"


if __name__ == "__main__":
    for line in sys.stdin:
        print(answer(line), flush=True)
