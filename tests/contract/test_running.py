"""What every store of what runs does."""

from __future__ import annotations

import time

import pytest

from celery_dynprio.models import RunningTask
from tests.contract.conftest import Connect

NOW = 1_000.0  # the clock of a worker, which may be wrong


def run(run_id: str, ago: float = 5.0, key: str = "acme") -> RunningTask:
    return RunningTask(run_id, "proj.report", key, NOW - ago)


def test_nothing_runs_at_first(connect: Connect) -> None:
    assert list(connect().stores.running().read(time.time())) == []


def test_a_run_counts_until_it_is_told_to_have_ended(connect: Connect) -> None:
    worker = connect().stores.running()
    worker.start([run("1", key="köln \n"), run("2", key="")], NOW)
    found = {each.id: each for each in connect().stores.running().read(time.time())}
    assert found["1"][:3] == ("1", "proj.report", "köln \n")
    assert found["2"].key == ""
    worker.end(["1", "nobody's"])
    assert [each.id for each in connect().stores.running().read(time.time())] == ["2"]


def test_its_start_is_by_the_clock_of_the_broker_and_stays(connect: Connect) -> None:
    worker = connect().stores.running()
    worker.start([run("1", ago=30.0)], NOW)
    worker.start([run("1", ago=99.0)], NOW)
    (found,) = connect().stores.running().read(time.time())
    assert time.time() - found.started == pytest.approx(30, abs=5)


def test_one_that_nobody_tells_of_again_ends_by_itself(connect: Connect) -> None:
    worker = connect().stores.running()
    worker.start([run(str(number)) for number in range(120)], NOW)
    assert len(connect().stores.running().read(time.time() + 30)) == 120
    assert list(connect().stores.running().read(time.time() + 3600)) == []
