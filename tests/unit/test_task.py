"""What tasks declare and calls ask for; wrong options fail where they are written."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from celery import Celery, Task, shared_task

from celery_dynprio import DynPrioTask, dynprio_task
from celery_dynprio.errors import OptionError
from celery_dynprio.task import call_fields, options_of

NOW = 1000.0


@pytest.fixture
def app() -> Celery:
    return Celery("tasks", broker="redis://127.0.0.1:1/0", set_as_current=False)


def fields(task: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    return options_of(task).fields(task.name, args, kwargs, NOW)


def test_bare(app: Celery) -> None:
    @dynprio_task
    def bare(x: int) -> int:
        return x

    task = app.tasks[f"{__name__}.bare"]
    assert task(3) == 3
    assert fields(task, 3) == {}


def test_with_options_and_celerys_own(app: Celery) -> None:
    @dynprio_task(app=app, shared=False, name="render", weight=5, deadline=30, key="customer_id", max_retries=7)
    def render(customer_id: int, invoice_id: int) -> tuple[int, int]:
        return customer_id, invoice_id

    assert render(1, 2) == (1, 2)
    assert (render.name, render.max_retries, render.app) == ("render", 7, app)
    assert fields(render, 42, 7) == {"w": 5, "due": NOW + 30, "key": "42"}
    assert fields(render, invoice_id=7, customer_id=43) == {"w": 5, "due": NOW + 30, "key": "43"}


def test_bound_tasks_find_their_parameters(app: Celery) -> None:
    @dynprio_task(app=app, shared=False, bind=True, key="tenant", autoretry_for=(ValueError,))
    def bound(self: Any, x: int, tenant: str = "default", *, y: int = 0) -> tuple[str, int, str, int]:
        return self.name, x, tenant, y

    assert bound(1, "t")[1:] == (1, "t", 0)
    assert fields(bound, 1, "t") == {"key": "t"}
    assert fields(bound, 1) == {"key": "default"}


class Audited(Task):
    audited = True


class Heavy(DynPrioTask):
    name = "heavy"
    dynprio = {"weight": 8, "deadline": 5, "key": "tenant"}  # noqa: RUF012 - as the README says

    def run(self, x: int, tenant: str) -> None:
        """Do nothing."""


def test_a_base_of_any_kind(app: Celery) -> None:
    @dynprio_task(app=app, shared=False, base=Audited, weight=2)
    def plain_base() -> None: ...

    @dynprio_task(app=app, shared=False, base=Heavy, weight=2)
    def heavy_base(tenant: str) -> None: ...

    assert plain_base.audited
    assert fields(plain_base) == {"w": 2}
    assert fields(heavy_base, "acme") == {"w": 2, "due": NOW + 5, "key": "acme"}


def test_class_based_tasks(app: Celery) -> None:
    task = app.register_task(Heavy())
    assert fields(task, 1, "acme") == {"w": 8, "due": NOW + 5, "key": "acme"}


def test_a_class_tells_type_checkers_its_types(app: Celery) -> None:
    class Typed(DynPrioTask[[int], str]):
        name = "typed"
        dynprio = {"weight": 3}  # noqa: RUF012

        def run(self, page: int) -> str:
            return str(page)

    task = app.register_task(Typed())
    assert (task(7), fields(task, 7)) == ("7", {"w": 3})


def test_a_subclass_with_other_parameters_reads_its_own(app: Celery) -> None:
    class Swapped(Heavy):
        name = "swapped"

        def run(self, tenant: str, x: int) -> None:  # type: ignore[override]
            """Do nothing."""

    app.register_task(Heavy())
    assert fields(app.register_task(Swapped()), "acme", 1)["key"] == "acme"


def test_a_class_with_wrong_options_fails_when_it_is_registered(app: Celery) -> None:
    class Wrong(DynPrioTask):
        name = "wrong"
        dynprio = {"wieght": 5}  # noqa: RUF012

    with pytest.raises(
        OptionError, match=r"task 'wrong': dynprio option wieght = 5: no such option; did you mean weight"
    ):
        app.register_task(Wrong())


def test_plain_tasks_may_declare_too(app: Celery) -> None:
    @app.task(shared=False, dynprio={"weight": 3})
    def plain() -> None: ...

    @shared_task
    def nothing() -> None: ...

    assert fields(plain) == {"w": 3}
    assert fields(app.tasks[f"{__name__}.nothing"]) == {}


WRONG_WEIGHTS: tuple[Any, ...] = (-1, 10.5, True, math.nan, math.inf, "5", [])
WRONG_DEADLINES: tuple[Any, ...] = (0, -1, True, math.nan, math.inf, "soon", "-5s", timedelta(0))
#: Those that a call may give: what was computed may have passed.
PAST_DEADLINES: tuple[Any, ...] = (0, -1, timedelta(0))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("weight", value) for value in WRONG_WEIGHTS),
        *(("deadline", value) for value in WRONG_DEADLINES),
        *(("key", value) for value in (5, "", "a..b", "other", "other.id")),
        ("wieght", 5),
        ("dedline", 5),
        ("level", 2),
    ],
)
def test_wrong_declarations_fail_at_once(option: str, value: Any) -> None:
    def work(customer: int) -> None: ...

    declare: Any = dynprio_task  # type checkers refuse some of these
    with pytest.raises(OptionError) as caught:
        declare(**{option: value}, name="work")(work)
    assert str(caught.value).startswith(f"task 'work': dynprio option {option} = {value!r}: ")


def test_a_parameter_that_is_not_there_is_told_from_those_that_are() -> None:
    def work(customer: int, *rest: int) -> None: ...

    with pytest.raises(OptionError, match="no parameter 'customr'; it has customer, rest"):
        dynprio_task(key="customr")(work)


def test_a_function_that_takes_anything_may_be_passed_any_key(app: Celery) -> None:
    @dynprio_task(app=app, shared=False, key="tenant")
    def anything(**kwargs: Any) -> None: ...

    assert fields(anything, tenant="t") == {"key": "t"}
    assert fields(anything) == {"key": None}


@pytest.mark.parametrize(
    ("key", "order", "expected"),
    [
        ("order.customer.id", SimpleNamespace(customer=SimpleNamespace(id=5)), "5"),
        ("order.customer.id", {"customer": SimpleNamespace(id=5)}, "5"),
        ("order.customer.id", {"customer": {"id": UUID(int=1)}}, str(UUID(int=1))),
        ("order.customer.id", {"customer": None}, None),
        ("order.customer.id", None, None),
        (lambda order, limit=3: order[:limit], "abcdef", "abc"),
        (lambda order: order or None, "", None),
    ],
)
def test_paths_and_callables(app: Celery, key: str | Callable[..., object], order: Any, expected: str | None) -> None:
    @dynprio_task(app=app, shared=False, key=key)
    def work(order: Any) -> None: ...

    assert fields(work, order)["key"] == expected


@pytest.mark.parametrize("order", [{}, SimpleNamespace(), 5])
def test_a_path_that_leads_nowhere_fails_at_the_call(app: Celery, order: Any) -> None:
    @dynprio_task(app=app, shared=False, name="work", key="order.customer")
    def work(order: Any) -> None: ...

    with pytest.raises(OptionError, match=r"task 'work': dynprio option key = 'order.customer': failed for") as caught:
        fields(work, order)
    assert caught.value.__cause__ is not None


def test_a_long_key_is_refused(app: Celery) -> None:
    @dynprio_task(app=app, shared=False, key="tenant")
    def work(tenant: str) -> None: ...

    assert fields(work, "x" * 200)["key"] == "x" * 200
    with pytest.raises(OptionError, match="at most 200 characters"):
        fields(work, "x" * 201)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {}),
        ({"weight": 0}, {"w": 0}),
        ({"weight": 10}, {"w": 10}),
        ({"deadline": 0.5}, {"due": NOW + 0.5}),
        ({"deadline": timedelta(minutes=5)}, {"due": NOW + 300}),
        ({"deadline": "1h 30m"}, {"due": NOW + 5400}),
        ({"deadline": datetime(2026, 1, 2, 3, tzinfo=timezone.utc)}, {"due": 1767322800.0}),
        ({"deadline": datetime(1900, 1, 1, tzinfo=timezone.utc)}, {"due": 0.0}),
        ({"deadline": 0}, {"due": NOW}),
        ({"deadline": -1}, {"due": NOW - 1}),
        ({"deadline": timedelta(0)}, {"due": NOW}),
        ({"deadline": -1e300}, {"due": 0.0}),
        ({"deadline": None, "key": None}, {"due": None, "key": None}),
        ({"key": 42}, {"key": "42"}),
        ({"key": UUID(int=7)}, {"key": str(UUID(int=7))}),
    ],
)
def test_options_of_a_call(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert call_fields("work", given, NOW) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        *(({"weight": value}, "weight") for value in (*WRONG_WEIGHTS, None)),
        *(({"deadline": value}, "deadline") for value in WRONG_DEADLINES if value not in PAST_DEADLINES),
        ({"key": "x" * 201}, "key"),
        ({"deadline": datetime(2026, 1, 2)}, "deadline = datetime.datetime(2026, 1, 2, 0, 0): give it a time zone"),  # noqa: DTZ001 - it has none
        ({"kee": 1}, "kee = 1: no such option; did you mean key?"),
        ({"priority": 1}, "priority = 1: no such option; to pin the task to a level, use Celery's own priority="),
        ({5: 1}, "5 = 1: no such option; use deadline, key, weight"),
        (5, "dynprio = 5: use a dict"),
        ([("weight", 5)], "dynprio = "),
    ],
)
def test_wrong_options_of_a_call(given: Any, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        call_fields("work", given, NOW)
    assert str(caught.value).startswith(f"task 'work': dynprio option {message}")
