"""Learned use: what is measured, and how it decays."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, signals

from celery_dynprio import usage
from celery_dynprio.learned import Learnt, MemoryUsage, Run
from celery_dynprio.settings import Settings
from celery_dynprio.usage import Ended, Recorder, measured


def kept(memory: MemoryUsage, runs: list[Run], now: float = 1000.0) -> Learnt:
    memory.add(runs)
    return memory.read(now)


def test_runtimes_are_means_by_name_and_use_is_a_sum_by_key() -> None:
    runtimes, use = kept(
        MemoryUsage(clock=lambda: 1000.0), [Run("a", "x", 1.0), Run("a", "y", 3.0), Run("b", "x", 5.0)]
    )
    assert runtimes == {"a": 2.0, "b": 5.0}
    assert use == {"x": 6.0, "y": 3.0}


def test_use_halves_with_each_half_life_and_runtimes_stay() -> None:
    memory = MemoryUsage(half_life=60.0, clock=lambda: 1000.0)
    memory.add([Run("a", "x", 8.0)])
    assert memory.read(1120.0) == ({"a": 8.0}, {"x": 2.0})


def test_old_runs_count_less_in_the_mean() -> None:
    clock = iter([1000.0, 1060.0])
    memory = MemoryUsage(half_life=60.0, clock=lambda: next(clock))
    memory.add([Run("a", "x", 4.0)])
    memory.add([Run("a", "x", 1.0)])
    assert memory.read(1060.0)[0]["a"] == pytest.approx((2.0 + 1.0) / 1.5)


def test_a_clock_that_went_back_makes_nothing_grow() -> None:
    memory = MemoryUsage(half_life=60.0, clock=lambda: 1000.0)
    memory.add([Run("a", "x", 8.0)])
    assert memory.read(0.0)[1] == {"x": 8.0}


class Collecting(Recorder):
    """A recorder whose entries go to a list."""

    def __init__(self, app: Celery, settings: Settings) -> None:
        super().__init__(app, lambda: settings)
        self.entries: list[Ended] = []
        self.senders = SimpleNamespace(put=self.entries.append)  # type: ignore[assignment]


@pytest.fixture
def task() -> Any:
    app = Celery("learning", broker="memory://", set_as_current=False)

    @app.task(name="work")
    def work() -> None: ...

    return work


def run(task: Any, settings: Settings, **request: Any) -> list[Run]:
    recorder = Collecting(task.app, settings)
    task.push_request(id="1", **request)
    try:
        recorder.started(task, task.request)
        recorder.ended(task, task.request, "SUCCESS", None)
    finally:
        task.pop_request()
    return [measured(entry) for entry in recorder.entries]


def settings(**values: Any) -> Settings:
    return Settings(**{"queues": ("celery",), **values})


def test_a_run_is_measured_under_its_key(task: Any) -> None:
    (measured,) = run(task, settings(), dynprio={"key": "tenant-1"})
    assert measured[:2] == ("work", "tenant-1")
    assert 0 <= measured.seconds < 10


@pytest.mark.parametrize("fields", [{}, {"key": 5}, {"key": ""}, {"key": "x" * 201}, {"key": "\ud800"}])
def test_no_key_or_a_wrong_one_counts_under_the_empty_key(task: Any, fields: dict[str, Any]) -> None:
    assert [measured.key for measured in run(task, settings(), dynprio=fields)] == [""]


def test_a_foreign_task_of_a_managed_queue_is_measured(task: Any) -> None:
    assert len(run(task, settings(), delivery_info={"routing_key": "celery"})) == 1


@pytest.mark.parametrize(
    "request_",
    [
        {"delivery_info": {"routing_key": "elsewhere"}},
        {"delivery_info": None},
        {"dynprio": "hostile"},
        {"dynprio": {}, "is_eager": True},
    ],
)
def test_what_is_not_ours_is_not_measured(task: Any, request_: dict[str, Any]) -> None:
    assert run(task, settings(), **request_) == []


def test_learning_can_be_turned_off(task: Any) -> None:
    assert run(task, settings(learn=False), dynprio={}) == []


def test_connect_and_disconnect_leave_the_signals_as_they_were(task: Any) -> None:
    watched = (
        signals.task_prerun,
        signals.task_postrun,
        signals.worker_process_shutdown,
        signals.worker_shutdown,
    )
    before = [list(signal.receivers or ()) for signal in watched]
    get: Callable[[], Settings] = settings
    usage.connect(task.app, get)
    usage.connect(task.app, get)
    assert [len(signal.receivers) for signal in watched] == [len(receivers) + 1 for receivers in before]
    usage.disconnect(task.app)
    usage.disconnect(task.app)
    assert [list(signal.receivers or ()) for signal in watched] == before
