"""What every store of learned runtimes and use does."""

from __future__ import annotations

import time

import pytest

from celery_dynprio.models import Run
from tests.contract.conftest import Connect


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
