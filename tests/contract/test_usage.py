"""What every store of learned runtimes and use does."""

from __future__ import annotations

import time

import pytest

from celery_dynprio.brokers.redis import usage as redis_usage
from celery_dynprio.models import PendingTask, Run
from celery_dynprio.ports.stores import Usage
from celery_dynprio.runtimes import Estimate
from celery_dynprio.stores import memory
from tests.contract.conftest import Connect


def expected(usage: Usage, name: str, key: str | None) -> Estimate:
    found = usage.read(time.time()).runtimes.expected(PendingTask("1", name, 0.0, key=key))
    assert found is not None
    return found


def test_nothing_is_known_at_first(connect: Connect) -> None:
    runtimes, use = connect().stores.usage(600).read(time.time())
    assert (dict(runtimes), dict(use)) == ({}, {})


def test_means_by_name_and_sums_by_key(connect: Connect) -> None:
    usage = connect().stores.usage(600)
    usage.add([Run("a", "x", 1.0), Run("a", "y", 3.0), Run("b", "", 5.0)])
    usage.add([Run("a", "x", 2.0)])
    runtimes, use = connect().stores.usage(600).read(time.time())
    assert runtimes == pytest.approx({"a": 2.0, "b": 5.0}, rel=0.05)
    assert use == pytest.approx({"x": 3.0, "y": 3.0, "": 5.0}, rel=0.05)


def test_use_halves_in_a_half_life_and_means_stay(connect: Connect) -> None:
    connect().stores.usage(60).add([Run("a", "x", 8.0)])
    runtimes, use = connect().stores.usage(60).read(time.time() + 120)
    assert runtimes == pytest.approx({"a": 8.0})
    assert use == pytest.approx({"x": 2.0}, rel=0.05)


def test_a_key_has_runtimes_of_its_own(connect: Connect) -> None:
    connect().stores.usage(600).add([Run("report", "big", 100.0), *[Run("report", "small", 1.0)] * 99] * 10)
    usage = connect().stores.usage(600)
    small, either, big = (expected(usage, "report", key).mean for key in ("small", None, "big"))
    assert either == pytest.approx(1.99)
    assert small == pytest.approx(1.0, rel=0.01)
    assert big > 80
    assert expected(usage, "report", "new").mean == either


def test_a_name_has_a_spread(connect: Connect) -> None:
    usage = connect().stores.usage(600)
    usage.add([Run("steady", "", 4.0), Run("erratic", "", 0.5), Run("erratic", "", 7.5)] * 200)
    assert expected(usage, "steady", None).quantile(0.9) < 5
    assert expected(usage, "erratic", None) == pytest.approx((4.0, 3.5), rel=0.01)


def test_what_is_learned_later_is_known_later(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that knows most already may ask for less than all."""
    monkeypatch.setattr(redis_usage, "CACHE_SECONDS", 0.0)
    monkeypatch.setattr(redis_usage, "WHOLE_READS", 1e-9)
    reader, writer = connect().stores.usage(600), connect().stores.usage(600)
    for turn in range(1, 30):
        writer.add([Run("a", f"key {turn}", 1.0), Run("a", "same", 2.0)])
        first = reader.read(time.time())
        assert first.use == pytest.approx(
            {"same": 2.0 * turn, **{f"key {each}": 1.0 for each in range(1, turn + 1)}}, rel=0.05
        )
        assert first.runtimes == pytest.approx({"a": 1.5})


def test_what_is_remembered_is_bounded(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_usage, "MAX_REMEMBERED", 50)
    monkeypatch.setattr(memory, "MAX_REMEMBERED", 50)
    usage = connect().stores.usage(600)
    for start in range(0, 600, 30):
        usage.add([Run(f"name {n % 7}", f"key {n}", 1.0) for n in range(start, start + 30)])
    runtimes, use = connect().stores.usage(600).read(time.time())
    assert len(use) <= 50
    assert runtimes == pytest.approx({f"name {n}": 1.0 for n in range(7)})
