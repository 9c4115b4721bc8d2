"""Learned use: what is measured, and how it decays."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from celery_dynprio import Objective
from celery_dynprio.models import Run, RunningTask, Start
from celery_dynprio.objectives import Names
from celery_dynprio.ports.stores import UsageFigures
from celery_dynprio.settings import Settings
from celery_dynprio.stores.memory import MemoryRunning, MemoryUsage
from celery_dynprio.tracing.runs import Running, RunReport
from celery_dynprio.worker.usage import LONGEST, REMINDER, RunFigures, RunningTasks, StartCounts, outlets


def kept(memory: MemoryUsage, runs: list[Run], now: float = 1000.0) -> UsageFigures:
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
    runtimes, use = memory.read(1120.0)
    assert (dict(runtimes), dict(use)) == ({"a": 8.0}, {"x": 2.0})


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


class Runs:
    """A store that keeps what it is given."""

    def __init__(self) -> None:
        self.kept: list[Run] = []

    def add(self, entries: Sequence[Run], /) -> None:
        self.kept += entries

    def close(self) -> None: ...


def nothing() -> None: ...


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> float:
    """The time at which runs begin."""
    stopped = SimpleNamespace(time=lambda: 1e9, perf_counter=time.perf_counter)
    monkeypatch.setattr("celery_dynprio.tracing.runs.time", stopped)
    return 1e9


def told(*, ran: float | None = 2.0, first: bool = True, **request: Any) -> RunReport:
    """What is told of a run that a worker has begun, of this request."""
    app = Celery("learning", broker="memory://", set_as_current=False)
    task = app.task(name="work")(nothing)
    made = SimpleNamespace(**{"id": "1", "delivery_info": {}, "hostname": "w", **request})
    run = Running(task, made, vars(made), lambda: None, None)
    return RunReport(run, "SUCCESS", ran, "", first)


def ended(told: RunReport, *, spans: bool = False) -> list[Run]:
    kept = Runs()
    RunFigures(kept, {"celery"}, spans=spans).add([told, "something else"])
    return kept.kept


def test_a_run_is_measured_under_its_key() -> None:
    assert ended(told(dynprio={"key": "tenant-1"})) == [Run("work", "tenant-1", 2.0)]


def test_a_run_is_measured_when_it_ends() -> None:
    assert ended(told(dynprio={}, ran=None)) == []


@pytest.mark.parametrize("fields", [{}, {"key": 5}, {"key": ""}, {"key": "x" * 201}, {"key": "\ud800"}])
def test_no_key_or_a_wrong_one_counts_under_the_empty_key(fields: dict[str, Any]) -> None:
    assert [run.key for run in ended(told(dynprio=fields))] == [""]


def test_a_foreign_task_of_a_managed_queue_is_measured() -> None:
    assert len(ended(told(delivery_info={"routing_key": "celery"}))) == 1


@pytest.mark.parametrize(
    "request_",
    [
        {"delivery_info": {"routing_key": "elsewhere"}},
        {"delivery_info": {"routing_key": ["hostile"]}},
        {"delivery_info": None},
        {"dynprio": "hostile"},
    ],
)
def test_what_is_not_ours_is_not_measured(request_: dict[str, Any]) -> None:
    assert ended(told(**request_)) == []


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Told(MemoryRunning):
    """Counts the calls."""

    calls = 0

    def start(self, runs: Iterable[RunningTask], now: float) -> None:
        self.calls += 1
        super().start(runs, now)

    def end(self, ids: Iterable[str]) -> None:
        self.calls += 1
        super().end(ids)


class TestWhatRuns:
    @pytest.fixture
    def clock(self, now: float) -> Clock:
        return Clock(now + 3)

    @pytest.fixture
    def store(self, clock: Clock) -> Told:
        return Told(clock)

    @pytest.fixture
    def running(self, store: Told, clock: Clock) -> RunningTasks:
        return RunningTasks(store, {"celery"}, clock)

    def test_a_run_counts_from_its_start_to_its_end(self, running: RunningTasks, store: Told, clock: Clock) -> None:
        start = told(dynprio={"key": "acme"}, ran=None)
        running.add([start, "something else"])
        assert store.read(clock()) == [RunningTask("1/0", "work", "acme", clock() - 3)]
        running.add([start._replace(ran=2.0, first=False)])
        assert store.read(clock()) == []

    def test_short_runs_and_those_of_others_cost_nothing(self, running: RunningTasks, store: Told) -> None:
        running.add([told(dynprio={}), told(ran=None, delivery_info={"routing_key": "elsewhere"})])
        assert running.remind() is None
        assert store.calls == 0

    def test_it_is_told_again_before_it_counts_no_more(self, running: RunningTasks, store: Told, clock: Clock) -> None:
        running.add([told(dynprio={}, ran=None)])
        for _ in range(5):
            assert running.remind() == pytest.approx(REMINDER)
            clock.now += REMINDER
            assert len(store.read(clock())) == 1
        assert store.read(clock())[0].started == 1e9

    def test_of_a_run_whose_end_was_lost_it_is_not_told_again(
        self, running: RunningTasks, store: Told, clock: Clock
    ) -> None:
        lost, hangs = told(dynprio={}, ran=None), told(dynprio={}, ran=None, id="2")
        running.add([lost, hangs])
        lost.run.end("SUCCESS", "")
        clock.now += REMINDER
        running.remind()
        assert [each.id for each in store.read(clock())] == ["2/0"]
        clock.now += LONGEST
        assert running.remind() is None

    def test_a_process_that_ends_takes_back_what_it_told(
        self, running: RunningTasks, store: Told, clock: Clock
    ) -> None:
        running.add([told(dynprio={}, ran=None)])
        running.close()
        assert store.read(clock()) == []


def test_a_histogram_is_told_wait_and_deadline(now: float) -> None:
    (run,) = ended(told(dynprio={"at": now - 5, "due": now - 1}), spans=True)
    assert run.wait == 5
    assert run.in_time is False
    (run,) = ended(told(dynprio={"at": now - 5, "due": now + 60}, eta="2026-01-01"), spans=True)
    assert (run.wait, run.in_time) == (None, True), "to wait for a time that was asked for is no waiting"


def test_each_start_that_an_objective_is_about_is_counted_once(now: float) -> None:
    counted: list[Start] = []
    starts = StartCounts(SimpleNamespace(add=counted.extend), Names(["w*"]))
    fields = {"at": now - 5}
    starts.add([told(dynprio=fields), told(dynprio=fields, first=False), told(dynprio=fields, eta="2026-01-01")])
    starts.add([told(dynprio="no time"), "something else"])
    assert [(start.name, start.wait) for start in counted] == [("work", 5)]


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({}, ["learned use", "what runs"]),
        ({"learn": False}, []),
        ({"learn": False, "metrics_port": 1}, ["histograms"]),
        ({"objectives": [Objective("soon", "*", within=1)]}, ["learned use", "what runs", "starts for objectives"]),
    ],
)
def test_only_what_the_settings_ask_for_is_kept(
    wanted: dict[str, Any], told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    def client() -> Any:
        raise OSError("no broker")

    for outlet in outlets(client, Settings(**wanted)):
        outlet.add([])
    assert [record.getMessage().split(" could not be sent")[0] for record in caplog.records] == told
