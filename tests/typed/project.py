"""A project of a user who checks types strictly: what is right passes, and each ignored line is an error.

Checked by tests/integration/test_types.py, and never run.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from celery import Celery
from typing_extensions import assert_type

import celery_dynprio
from celery_dynprio import Age, Deadline, DynPrio, DynPrioTask, Filter, Objective, Weight, dynprio_task, factor

app = Celery("typed", broker="redis://localhost")
dynprio = DynPrio(app)
policy = 4 * Deadline(horizon=60) + 2 * Weight() + Age()
assert_type(celery_dynprio.__version__, str)


@dynprio_task
def bare(x: int, y: str = "") -> float:
    return x


@dynprio_task(weight=5, deadline=30, key="tenant")
def options(tenant: int, *, page: str) -> list[int]:
    return [tenant]


@dynprio_task(app=app, name="proj.of_app", acks_late=True, key=lambda x: x)
def of_app(x: int) -> None: ...


@dynprio_task(bind=True, weight=1)
def bound(self: DynPrioTask[[int], str], x: int) -> str:
    raise self.retry(countdown=1)


class Base(DynPrioTask):
    abstract = True
    greeting = "hello"


@dynprio_task(base=Base)
def based(x: int) -> str:
    return ""


class Report(DynPrioTask[[int], str]):
    name = "proj.report"
    dynprio = {"weight": 2}

    def run(self, page: int) -> str:
        return str(page)


class Loose(DynPrioTask):
    name = "proj.loose"

    def run(self, page: int) -> str:
        return str(page)


@factor
def paying(task: celery_dynprio.PendingTask, context: celery_dynprio.Context) -> float:
    return 1.0


def use() -> None:
    assert_type(bare(1, "a"), float)
    assert_type(bare.delay(1).get(), float)
    assert_type(bare.delay(1, y="a").get(timeout=5), float)
    assert_type(options.delay(1, page="a").get(), list[int])
    assert_type(options.apply_async((1,), {"page": "a"}, countdown=5, queue="q").get(), list[int])
    assert_type(of_app.delay(1).get(), None)
    assert_type(bound.delay(1).get(), str)
    assert_type(bound(1), str)
    assert_type(based.greeting, str)
    assert_type(Report()(1), str)
    assert_type(Report().delay(1).get(), str)
    Loose().delay(1)
    bare.name.upper()
    of_app.delay_on_commit(1)
    options.apply_async(dynprio={"weight": 9, "deadline": timedelta(minutes=5), "key": 7})
    options.apply_async(dynprio={"deadline": datetime.now(timezone.utc)})
    options.apply_async(dynprio={"deadline": None})
    signature = options.s(1).set(dynprio={"weight": 9}, queue="q")
    assert_type(signature.apply_async(dynprio={"key": None}).get(), list[int])
    assert_type(options.si(1, page="a").delay().get(), list[int])
    (bare.s(1) | of_app.s()).apply_async()
    bare.signature((1,), dynprio={"weight": 1})


def misuse() -> None:
    bare("a")  # type: ignore[arg-type]
    bare.delay("a")  # type: ignore[arg-type]
    bare.delay()  # type: ignore[call-arg]
    options.delay(1, pages="a")  # type: ignore[call-arg]
    bound.delay("a")  # type: ignore[arg-type]
    options.si(1)  # type: ignore[call-arg]
    Report().delay("a")  # type: ignore[arg-type]
    options.apply_async(dynprio={"wieght": 9})  # type: ignore[arg-type]
    options.s(1).set(dynprio={"weight": "much"})  # type: ignore[arg-type]
    dynprio_task(weight="much")  # type: ignore[call-overload]
    dynprio.reprioritize("id", wieght=1)  # type: ignore[call-arg]
    dynprio.reprioritize("id", level="first")  # type: ignore[arg-type]


def operate(task_id: str) -> Any:
    dynprio.reprioritize(task_id, weight=9, deadline=timedelta(minutes=5), why="they called")
    dynprio.reprioritize(task_id, deadline="5m", key=None, level=None)
    dynprio.reprioritize(task_id, deadline=datetime.now(timezone.utc))
    dynprio.pending(Filter(older=timedelta(hours=1), task="proj.*"), limit=5)
    return Objective("reports", match="proj.*", within="5m")
