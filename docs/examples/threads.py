"""Threads keep the trace of the task that started them."""

from concurrent.futures import ThreadPoolExecutor

from celery_dynprio import tracing


def pages(render, numbers):
    with tracing.Executor(ThreadPoolExecutor(4)) as executor:
        return list(executor.map(render, numbers))


with tracing.use() as span:
    assert pages(lambda _: tracing.current().trace_id, range(2)) == [span.trace_id] * 2
