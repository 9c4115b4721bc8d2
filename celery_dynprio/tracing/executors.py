"""Threads: what another thread runs belongs to the trace and task that handed it over."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent import futures
from contextvars import copy_context
from typing import ParamSpec, TypeVar

from celery._state import _task_stack, get_current_worker_task

P = ParamSpec("P")
T = TypeVar("T")


def wrap(fn: Callable[P, T]) -> Callable[P, T]:
    """Wrap a function for another thread, so that it runs in the present trace and task.

    It gets a copy of the context variables, including the trace, and Celery's current task, from which tasks that it
    publishes inherit key, weight and deadline. The result may be called any number of times, also concurrently.
    """
    context = copy_context()
    task = get_current_worker_task()
    request = None if task is None else task.request

    def with_task(*args: P.args, **kwargs: P.kwargs) -> T:
        if task is None:
            return fn(*args, **kwargs)
        # Celery keeps both for each thread or greenlet, and looks them up together.
        _task_stack.push(task)
        task.request_stack.push(request)
        try:
            return fn(*args, **kwargs)
        finally:
            task.request_stack.pop()
            _task_stack.pop()

    @functools.wraps(fn)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        # A context can only be entered once at a time, so each call gets its own.
        return context.copy().run(with_task, *args, **kwargs)

    return run


class Executor(futures.Executor):
    """An executor whose calls run in the trace and task that submit them; see :func:`wrap`.

    Use it as ``Executor(ThreadPoolExecutor())``. It cannot wrap an executor of processes, because a context cannot be
    sent to another process.
    """

    def __init__(self, executor: futures.Executor) -> None:
        self._executor = executor

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> futures.Future[T]:
        """Submit to the executor; ``map`` of the base class uses this, too."""
        return self._executor.submit(wrap(fn), *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - as its base
        """Shut the executor down."""
        self._executor.shutdown(wait, cancel_futures=cancel_futures)
