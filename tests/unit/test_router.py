"""Which calls are managed, what their headers say, and that the user's own routes stay what they are."""

from __future__ import annotations

import copy
import logging
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from types import MappingProxyType
from typing import Any
from unittest.mock import patch

import kombu.entity
import pytest
from celery import Celery, chain, chord, group

from celery_dynprio import (
    Age,
    Context,
    DynPrio,
    FairShare,
    PendingTask,
    ShortestFirst,
    Weight,
    dynprio_task,
    factor,
    tracing,
)
from celery_dynprio.errors import OptionError
from celery_dynprio.levels import KOMBU_STEPS, Bands, Scale
from celery_dynprio.ports.guidance import Guidance
from celery_dynprio.producer.canvas import dependents
from celery_dynprio.producer.placement import LOOK_SECONDS, Placement
from celery_dynprio.producer.router import DynPrioRouter
from celery_dynprio.runtimes import Runtimes

Exchange: Any = kombu.entity.Exchange
Queue: Any = kombu.entity.Queue

NOW = 1_700_000_000.0


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def app(clock: Clock) -> Celery:
    app = Celery("router", broker="redis://127.0.0.1:1/0", set_as_current=False)
    app.conf.update(dynprio_policy=1 * Weight())
    installed = DynPrio(app)
    installed._router._clock = clock

    @dynprio_task(app=app, shared=False, name="work", weight=5, deadline=30, key="tenant")
    def work(tenant: str = "acme") -> None: ...

    @app.task(shared=False, name="plain")
    def plain() -> None: ...

    return app


def publish(app: Celery, name: str = "work", *args: Any, **options: Any) -> dict[str, Any]:
    """The options that Celery would publish with."""
    task = app.tasks.get(name)
    preset = {} if task is None else {k: v for k, v in task._get_exec_options().items() if v is not None}
    merged: dict[str, Any] = app.amqp.router.route({**preset, **options}, name, args, {}, task)
    return merged


def header(options: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = options["headers"]["dynprio"]
    return fields


@contextmanager
def running(app: Celery, fields: Any, priority: int = 3, **request: Any) -> Iterator[dict[str, Any]]:
    """Run inside a worker's task that was delivered with this header and kombu priority; gives its retry's options."""
    task = app.tasks["plain"]
    headers = {} if fields is None else {"dynprio": fields}
    delivery = {"priority": priority, "exchange": "", "routing_key": "celery"}
    task.push_request(
        id="1", called_directly=False, origin="x", delivery_info=delivery, args=(), kwargs={}, **headers, **request
    )
    # The worker's tracer pushes it; current_worker_task finds it there, and its span is the current one.
    with tracing.use(), patch("celery_dynprio.producer.router.get_current_worker_task", lambda: task):
        try:
            yield {"origin": "x", "headers": headers, "priority": priority, "queue": "celery"}
        finally:
            task.pop_request()


def test_a_managed_task_gets_a_header_and_the_level_of_its_score(app: Celery) -> None:
    options = publish(app, "work", "globex")
    assert header(options) == {"at": NOW, "w": 5, "due": NOW + 30, "key": "globex"}
    assert options["priority"] == 3  # 0.5 is in the upper half, in level 4: the plain level before that


@pytest.mark.parametrize(
    ("weight", "priority"), [(10, 0), (9, 0), (8.9, 0), (6.5, 3), (4.5, 3), (3.5, 6), (1, 6), (0.5, 9), (0, 9)]
)
def test_the_priority_is_the_level_or_that_before_it_from_which_plain_workers_take(
    app: Celery, weight: float, priority: int
) -> None:
    assert publish(app, dynprio={"weight": weight})["priority"] == priority


def test_the_priority_is_the_level_where_the_user_gave_plain_workers_ten(app: Celery) -> None:
    app.conf.broker_transport_options = {"priority_steps": list(range(10))}
    assert [publish(app, dynprio={"weight": weight})["priority"] for weight in (8.5, 4.5, 1.5)] == [1, 5, 8]


def test_the_priority_is_the_step_of_the_users_own(app: Celery) -> None:
    app.conf.broker_transport_options = {"priority_steps": [0, 3, 6, 9]}
    assert [publish(app, dynprio={"weight": weight})["priority"] for weight in (10, 6, 3, 0)] == [0, 3, 6, 9]


@pytest.mark.parametrize("name", ["plain", "by.name.only"])
def test_a_task_without_options_is_managed_with_defaults(app: Celery, name: str) -> None:
    options = publish(app, name)
    assert header(options) == {"at": NOW}
    assert options["priority"] == 6


def test_a_task_that_takes_another_s_name_is_read_anew(app: Celery) -> None:
    assert header(publish(app))["w"] == 5
    app.tasks.unregister("work")

    @dynprio_task(app=app, shared=False, name="work", weight=7)
    def other() -> None: ...

    assert header(publish(app)) == {"at": NOW, "w": 7}


def test_options_of_the_call_win(app: Celery) -> None:
    options = publish(app, "work", "acme", dynprio={"weight": 9, "deadline": None, "key": 7})
    assert header(options) == {"at": NOW, "w": 9, "key": "7"}
    assert "dynprio" not in options


def test_the_callers_headers_are_kept_and_not_touched(app: Celery) -> None:
    headers = {"trace": "x"}
    options = publish(app, headers=headers)
    assert options["headers"]["trace"] == "x"
    assert headers == {"trace": "x"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weight": 5}, "weight = 5: not an option of a call; use dynprio={'weight': 5}"),
        ({"deadline": "5m"}, "deadline = '5m': not an option of a call; use dynprio={'deadline': '5m'}"),
        ({"wieght": 5}, "wieght = 5: not an option of a call; use dynprio={'weight': 5}"),
        ({"level": 2}, "level = 2: not an option of a call; to pin the task to a level, use Celery's own priority="),
    ],
)
def test_our_options_are_not_celerys(app: Celery, options: dict[str, Any], said: str) -> None:
    work = app.tasks["work"]
    calls: list[Callable[[], object]] = [
        lambda: work.apply_async(**options),
        lambda: work.s().set(**options).apply_async(),
        lambda: work.signature(**options).delay(),
        lambda: app.send_task("elsewhere", **options),
        lambda: chain(work.si().set(**options), work.si()).apply_async(),
    ]
    for call in calls:
        with pytest.raises(OptionError) as caught:
            call()
        assert str(caught.value).partition(" option ")[2] == said
    assert publish(app, "work", queue="elsewhere", **options).items() >= options.items()  # where nothing is managed


def test_our_options_are_not_those_of_a_plain_task(app: Celery) -> None:
    class Heavy(app.Task):
        weight = 1

    def work() -> None: ...

    app.task(work, name="theirs", base=Heavy, weight=5)
    app.task(work, name="ours", weight=5)
    assert header(publish(app, "theirs")) == {"at": NOW}
    with pytest.raises(OptionError, match=r"weight = 5: not an option of @app.task; use dynprio=\{'weight': 5\}"):
        publish(app, "ours")


def test_wrong_options_fail_at_the_call_in_any_queue(app: Celery) -> None:
    for queue in ("celery", "other"):
        with pytest.raises(OptionError, match=r"task 'work': dynprio option weight = 11"):
            publish(app, queue=queue, dynprio={"weight": 11})


# What is lent is given back as it was


def by_shared_route(name: str, *_: Any, **__: Any) -> Any:
    return SHARED_ROUTE if name == "shared" else None


SHARED_ROUTE: dict[str, Any] = {"queue": "celery", "headers": {"a": 1}, "dynprio": {"weight": 9}}


@pytest.mark.parametrize("routes", [None, by_shared_route, {"shared": SHARED_ROUTE}])
@pytest.mark.parametrize("queue", [{}, {"queue": "celery"}, {"queue": "other"}, {"queue": None}])
@pytest.mark.parametrize("name", ["work", "plain", "shared"])
def test_nothing_that_is_given_is_changed(app: Celery, name: str, queue: dict[str, Any], routes: Any) -> None:
    app.conf.update(task_routes=routes)
    task = app.tasks.get(name)
    lent: dict[str, Any] = {
        "options": {**queue, "headers": {"mine": [1]}, "dynprio": {"weight": 2, "key": "k"}, "link": [{"task": "x"}]},
        "route": SHARED_ROUTE,
        "args": ["acme", {"nested": 1}],
        "task": {} if task is None else {k: v for k, v in vars(type(task)).items() if isinstance(v, (dict, list))},
        "names": [] if task is None else sorted(vars(type(task))),
    }
    before = copy.deepcopy(lent)
    routed = [app.amqp.router.route(lent["options"], name, lent["args"], {}, task) for _ in range(2)]
    assert lent == before
    assert task is None or sorted(vars(type(task))) == before["names"]
    assert routed[0] == routed[1]
    assert ("priority" in routed[0]) == (queue != {"queue": "other"})


def test_mappings_that_cannot_be_changed_will_do(app: Celery) -> None:
    app.conf.update(task_routes=lambda name, *_, **__: MappingProxyType(SHARED_ROUTE) if name == "shared" else None)
    frozen = MappingProxyType({"headers": MappingProxyType({"b": 2}), "dynprio": MappingProxyType({"key": "k"})})
    routed = app.amqp.router.route(frozen, "shared")
    assert routed["headers"] == {"b": 2, "dynprio": {"at": NOW, "w": 9, "key": "k"}}


def test_a_signature_may_be_published_twice(app: Celery) -> None:
    signature = app.tasks["work"].s("acme").set(dynprio={"weight": 9}, headers={"mine": {}})
    before = copy.deepcopy(dict(signature))
    for _ in range(2):
        with patch.object(app.amqp, "send_task_message") as sent:
            signature.apply_async()
        assert sent.call_args.kwargs["headers"] == {
            "mine": {},
            "dynprio": {"at": NOW, "w": 9, "due": NOW + 30, "key": "acme"},
        }
        assert dict(signature) == before


# A hint that the data of a call make wrong


class Hidden:
    def __str__(self) -> str:
        raise RuntimeError("no text")


DOUBTFUL: list[Any] = [{}, {"tenant": "x" * 201}, {"tenant": Hidden()}]


def declare_by_path(app: Celery) -> None:
    @dynprio_task(app=app, shared=False, name="by.path", weight=4, deadline=9, key="order.tenant")
    def by_path(order: Any) -> None: ...


@pytest.mark.parametrize("order", DOUBTFUL)
def test_a_key_that_cannot_be_found_is_said_and_left_out(
    app: Celery, caplog: pytest.LogCaptureFixture, order: Any
) -> None:
    declare_by_path(app)
    with caplog.at_level(logging.WARNING), running(app, PARENT):
        assert [header(publish(app, "by.path", order)) for _ in range(3)] == [{"at": NOW, "w": 4, "due": NOW + 9}] * 3
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "published without a hint that is wrong: task 'by.path': dynprio option key = "
    )


def test_a_key_function_that_raises_is_said_and_left_out(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    @dynprio_task(app=app, shared=False, name="by.function", key=lambda order: order["tenant"])
    def by_function_(order: Any) -> None: ...

    assert header(publish(app, "by.function", {})) == {"at": NOW}
    assert "KeyError('tenant')" in caplog.text


@pytest.mark.parametrize("key", ["x" * 201, Hidden()])
def test_a_key_of_a_call_is_data_too(app: Celery, caplog: pytest.LogCaptureFixture, key: Any) -> None:
    assert header(publish(app, "plain", dynprio={"key": key, "weight": 9})) == {"at": NOW, "w": 9}
    assert len(caplog.records) == 1


@pytest.mark.parametrize("order", DOUBTFUL)
def test_strictly_a_call_fails_whose_key_cannot_be_found(app: Celery, order: Any) -> None:
    app.conf.update(dynprio_strict=True)
    declare_by_path(app)
    with pytest.raises(OptionError, match="dynprio option key"):
        publish(app, "by.path", order)
    with pytest.raises(OptionError, match="at most 200 characters"):
        publish(app, "plain", dynprio={"key": "x" * 201})


@pytest.mark.parametrize("strict", [False, True])
def test_the_body_of_a_chord_is_not_judged_before_its_arguments_are_known(
    app: Celery,
    caplog: pytest.LogCaptureFixture,
    strict: bool,  # noqa: FBT001
) -> None:
    app.conf.update(dynprio_strict=strict)

    @dynprio_task(app=app, shared=False, name="by.results", key=lambda results: results[0])
    def by_results(results: Any) -> None: ...

    assert header(unlock(app, app.signature("by.results"))) == {"at": NOW}
    # As Backend.fallback_chord_unlock asks for the queue of a body.
    assert app.amqp.router.route({"result": []}, "by.results")["queue"].name == "celery"
    assert caplog.records == []


# Options in headers: all that a table of beat entries can store


@pytest.mark.parametrize("name", ["plain", "work"])
def test_options_in_a_header_are_those_of_a_call(app: Celery, name: str) -> None:
    options = {"weight": 9, "deadline": "1m", "key": "beat"}
    headers = {"dynprio": options, "mine": 1}
    routed = publish(app, name, headers=headers)
    assert routed["headers"] == {"mine": 1, "dynprio": {"at": NOW, "w": 9, "due": NOW + 60, "key": "beat"}}
    assert header(publish(app, name, headers={"dynprio": {"weight": 9}}, dynprio={"weight": 2}))["w"] == 2
    with running(app, PARENT):
        assert header(publish(app, "plain", headers={"dynprio": {"key": "beat"}})) == {
            "at": NOW,
            "w": 7,
            "due": NOW + 3,
            "key": "beat",
        }


def test_a_wrong_option_in_a_header_is_said_and_left_out(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    headers = {"dynprio": {"weight": 99, "key": "beat", "wieght": 1}}
    assert header(publish(app, "plain", headers=headers)) == {"at": NOW, "key": "beat"}
    assert "weight = 99" in caplog.text


def test_strictly_a_wrong_option_in_a_header_fails(app: Celery) -> None:
    app.conf.update(dynprio_strict=True)
    with pytest.raises(OptionError, match="weight = 99"):
        publish(app, "plain", headers={"dynprio": {"weight": 99}})


# Destinations


TOPIC = Exchange("events", "topic")
QUEUES = [
    Queue("celery"),
    Queue("other"),
    Queue("managed-topic", TOPIC, routing_key="order.#"),
    Queue("other-topic", TOPIC, routing_key="mail.#"),
    Queue("managed-fanout", Exchange("all", "fanout")),
    Queue("managed-direct", Exchange("direct"), routing_key="d", alias="nick"),
]


@pytest.mark.parametrize(
    ("options", "managed"),
    [
        ({}, True),
        ({"queue": "celery"}, True),
        ({"queue": Queue("celery")}, True),
        ({"queue": "other"}, False),
        ({"queue": Queue("elsewhere")}, False),
        ({"queue": "new"}, False),
        ({"queue": "nick"}, True),
        ({"queue": "managed-direct"}, True),
        ({"exchange": "direct", "routing_key": "d"}, True),
        ({"exchange": Exchange("direct"), "routing_key": "d"}, True),
        ({"exchange": "direct", "routing_key": "e"}, False),
        ({"queue": "managed-topic"}, True),  # the pattern matches itself
        ({"queue": "managed-topic", "routing_key": "order.new.eu"}, True),
        ({"queue": "managed-topic", "routing_key": "mail.new"}, False),
        ({"queue": "other-topic", "routing_key": "order.new"}, True),
        ({"queue": "managed-fanout"}, False),
        ({"routing_key": "d"}, True),  # Celery's rule: without an exchange it goes to the default queue
    ],
)
def test_what_reaches_a_managed_queue_is_managed(app: Celery, options: dict[str, Any], managed: bool) -> None:  # noqa: FBT001
    app.conf.update(
        task_queues=QUEUES,
        dynprio_queues=["celery", "managed-topic", "managed-fanout", "managed-direct"],
    )
    routed = publish(app, **options, dynprio={"weight": 3})
    assert ("headers" in routed, "priority" in routed) == (managed, managed)
    assert "dynprio" not in routed


def test_a_missing_queue_is_celerys_error(app: Celery) -> None:
    app.conf.update(task_create_missing_queues=False)
    with pytest.raises(Exception, match="missing from task_queues"):
        publish(app, queue="nowhere")


# The user's routes


def by_function(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **kw: Any) -> Any:
    return "from-function" if name == "function" else None


class OldRouter:
    def route_for_task(self, task: str, *_: Any) -> Any:
        return {"queue": "from-class"} if task == "class" else None


ROUTES: list[Any] = [
    {"exact": {"queue": "from-dict", "serializer": "yaml"}, "proj.*": "from-glob"},
    [(re.compile(r"re\..*"), {"queue": "from-regex"})],
    by_function,
    OldRouter(),
    f"{__name__}.by_function",
    {"*.late": {"queue": "late", "priority": 2}, "proj.x": "never", "empty": {}},
]

NAMES = ["exact", "proj.x", "re.x", "function", "class", "a.late", "empty", "unrouted"]


@pytest.mark.parametrize("routes", [ROUTES, ROUTES[0], by_function, None, f"{__name__}.by_function"])
@pytest.mark.parametrize("options", [{}, {"queue": "mine"}, {"priority": 1}, {"exchange": "x", "routing_key": "y"}])
def test_the_users_routes_decide_as_without_the_addon(routes: Any, options: dict[str, Any]) -> None:
    plain, ours = (Celery("routes", broker="redis://127.0.0.1:1/0", set_as_current=False) for _ in range(2))
    DynPrio(ours)
    for app in (plain, ours):
        app.conf.update(task_routes=routes, dynprio_queues=["managed"])
    for name in NAMES:
        expected = plain.amqp.router.route(dict(options), name, (), {})
        routed = ours.amqp.router.route(dict(options), name, (), {})
        expected["queue"], routed["queue"] = expected["queue"].name, routed["queue"].name
        if "priority" in expected:
            assert expected.pop("priority") in {1, 2}
            assert routed.pop("priority") == 0, "what kombu takes 1 and 2 for, without the add-on"
        assert routed == expected


def test_routes_may_lead_into_and_out_of_managed_queues(app: Celery) -> None:
    app.conf.update(dynprio_queues=["managed"], task_routes={"in": "managed", "out": {"queue": "other"}})
    assert "headers" in publish(app, "in")
    assert "headers" not in publish(app, "out")
    assert "headers" not in publish(app, "work")
    assert "headers" not in publish(app, "in", queue="other")


def test_a_route_may_give_options_and_headers(app: Celery) -> None:
    route = {"queue": "celery", "headers": {"a": 1}, "dynprio": {"weight": 2, "deadline": 9}}
    app.conf.update(task_routes={"routed": route})
    options = publish(app, "routed", dynprio={"weight": 3})
    assert header(options) == {"at": NOW, "w": 3, "due": NOW + 9}
    assert options["headers"]["a"] == 1
    assert "dynprio" not in options
    assert "dynprio" in route


# Pins


@pytest.mark.parametrize(("priority", "level"), [(0, 0), (3, 3), (9, 9), (99, 9), (-5, 0)])
def test_an_explicit_priority_pins(app: Celery, priority: int, level: int) -> None:
    options = publish(app, "plain", priority=priority)
    assert header(options) == {"at": NOW, "pin": level}
    assert options["priority"] == level


def test_a_pin_between_two_plain_levels_is_kept_in_the_header(app: Celery) -> None:
    options = publish(app, "plain", priority=5)
    assert (header(options), options["priority"]) == ({"at": NOW, "pin": 5}, 3)


def test_a_pin_in_the_users_own_steps(app: Celery) -> None:
    app.conf.broker_transport_options = {"priority_steps": [0, 3, 6, 9]}
    options = publish(app, "plain", priority=5)
    assert (header(options)["pin"], options["priority"]) == (1, 3)


def test_a_route_and_a_task_may_pin(app: Celery) -> None:
    app.conf.update(task_routes={"routed": {"priority": 2}})
    app.tasks["plain"].__class__.priority = 7
    app.tasks["plain"].__class__._exec_options = None
    assert header(publish(app, "routed"))["pin"] == 2
    assert header(publish(app, "plain"))["pin"] == 7


def test_the_default_priority_does_not_pin(app: Celery) -> None:
    app.conf.update(task_default_priority=6)
    options = publish(app, "plain", priority=6)
    assert (header(options), options["priority"]) == ({"at": NOW}, 6)


def test_what_kombu_would_ignore_does_not_pin(app: Celery) -> None:
    assert publish(app, "plain", priority="high")["priority"] == 6


# Inside a worker


PARENT = {"at": 1.0, "w": 7, "due": NOW + 3, "key": "parent", "n": 4, "pin": 2}


def test_a_subtask_inherits_weight_deadline_and_key(app: Celery) -> None:
    with running(app, PARENT):
        assert header(publish(app, "plain")) == {"at": NOW, "w": 7, "due": NOW + 3, "key": "parent"}


def test_what_a_subtask_declares_or_is_called_with_wins(app: Celery) -> None:
    with running(app, PARENT):
        assert header(publish(app, "work")) == {"at": NOW, "w": 5, "due": NOW + 30, "key": "acme"}
        called = publish(app, "plain", dynprio={"weight": 1, "key": None})
        assert header(called) == {"at": NOW, "w": 1, "due": NOW + 3}


def test_a_deadline_that_has_passed_is_not_inherited(app: Celery) -> None:
    """Or else a task that publishes itself again and again would be urgent for ever."""
    with running(app, {**PARENT, "due": NOW}):
        assert header(publish(app, "plain"))["due"] == NOW
    with running(app, {**PARENT, "due": NOW - 0.1}):
        assert header(publish(app, "plain")) == {"at": NOW, "w": 7, "key": "parent"}
        assert header(publish(app, "work"))["due"] == NOW + 30
        assert header(publish(app, "plain", dynprio={"deadline": 5}))["due"] == NOW + 5


def test_inheritance_may_be_turned_off(app: Celery) -> None:
    app.conf.update(dynprio_inherit=False)
    with running(app, PARENT):
        assert header(publish(app, "plain")) == {"at": NOW}


def test_a_priority_that_celery_inherits_does_not_pin(app: Celery) -> None:
    app.conf.update(task_inherit_parent_priority=True)
    with running(app, None, priority=3):
        assert "pin" not in header(publish(app, "plain", priority=3))
        assert header(publish(app, "plain", priority=4))["pin"] == 4


@pytest.mark.parametrize(
    "fields",
    [
        5,
        [],
        "x",
        {"w": "heavy", "due": math.nan, "key": 5, "pin": 77},
        {"w": -1, "due": [], "key": "x" * 201, "pin": True},
    ],
)
@pytest.mark.parametrize("retry", [True, False])
def test_a_hostile_parent_is_ignored(app: Celery, fields: Any, retry: bool) -> None:  # noqa: FBT001
    with running(app, fields) as again:
        inherited = header(publish(app, "plain", **(again if retry else {})))
    assert inherited in ({"at": NOW}, {"at": NOW, "w": 1.0})


def test_a_retry_keeps_what_it_had_and_is_not_pinned(app: Celery) -> None:
    with running(app, {"at": 1.0, "w": 9, "due": NOW - 5, "key": "old"}) as again:
        options = publish(app, "work", **again)
        assert header(options) == {"at": NOW, "first": 1.0, "w": 9, "due": NOW - 5, "key": "old"}
        assert options["priority"] == 0, "its weight of 9, not the level it was delivered from"


@pytest.mark.parametrize(
    ("fields", "since"),
    [
        ({"at": NOW - 50}, NOW - 50),
        ({"at": NOW - 5, "first": NOW - 50}, NOW - 50),
        ({"at": NOW - 5, "first": "long ago"}, NOW - 5),
        ({"at": NOW + 5}, None),
        ({"w": 9}, None),
        ({"at": "hostile", "first": -1}, None),
    ],
)
def test_a_retry_keeps_its_age(app: Celery, fields: dict[str, Any], since: float | None) -> None:
    app.conf.update(dynprio_policy=1 * Age(saturation=100))
    with running(app, fields) as again:
        options = publish(app, "plain", **again)
        assert header(options).get("first") == since
        assert header(options)["at"] == NOW
        assert options["priority"] == (9 if since is None else 3 if since == NOW - 50 else 9)
        assert "first" not in header(publish(app, "plain")), "a subtask is a task of its own"


@pytest.mark.parametrize(
    ("eta", "since"),
    [
        (NOW + 30, NOW - 20),
        (NOW + 300, NOW + 250),
        (NOW - 30, NOW - 50),
        (None, NOW - 50),
    ],
)
def test_a_pause_before_a_retry_is_no_waiting(app: Celery, eta: float | None, since: float) -> None:
    app.conf.update(dynprio_policy=1 * Age(saturation=100))
    when = None if eta is None else datetime.fromtimestamp(eta, timezone.utc).isoformat()
    with running(app, {"at": NOW - 50}) as again:
        options = publish(app, "plain", **again)
        properties = {"priority": options["priority"]}
        headers = {**options["headers"], "task": "plain", "id": "1", "eta": when}
        router_of(app).complete(headers=headers, properties=properties, body=((), {}, {}))
    assert headers["dynprio"]["first"] == pytest.approx(since)
    assert properties["priority"] == (3 if since == NOW - 50 else 9 if since > NOW else 6)


@pytest.mark.parametrize("eta", ["soon", "", 5, "10000-01-01T00:00:00+00:00"])
def test_an_eta_that_nobody_understands_is_no_pause(app: Celery, eta: object) -> None:
    with running(app, {"at": NOW - 50}) as again:
        options = publish(app, "plain", **again)
        headers = {**options["headers"], "task": "plain", "id": "1", "eta": eta}
        router_of(app).complete(headers=headers, properties={"priority": 3}, body=((), {}, {}))
    assert headers["dynprio"]["first"] == NOW - 50


def test_a_retry_without_inheritance_keeps_what_it_had_too(app: Celery) -> None:
    app.conf.update(dynprio_inherit=False)
    with running(app, {"w": 9}) as again:
        assert header(publish(app, "work", **again)) == {"at": NOW, "w": 9}


def test_a_retry_stays_pinned_wherever_it_was_delivered_from(app: Celery) -> None:
    with running(app, {"pin": 6}, priority=3) as again:
        options = publish(app, "plain", **again)
        assert (header(options)["pin"], options["priority"]) == (6, 6)


def test_a_retry_may_change_its_mind(app: Celery) -> None:
    with running(app, {"w": 9, "pin": 6}, priority=6) as again:
        options = publish(app, "plain", **{**again, "priority": 1, "dynprio": {"weight": 2}})
        assert header(options) == {"at": NOW, "w": 2, "pin": 1}


@pytest.mark.parametrize(("priority", "pin"), [(0, None), (4, 4)])
def test_a_retry_of_a_plain_producers_task_keeps_its_priority(app: Celery, priority: int, pin: int | None) -> None:
    with running(app, None, priority=priority) as again:
        assert header(publish(app, "plain", **again)).get("pin") == pin


def test_celerys_retry_is_what_these_tests_take_it_for(app: Celery) -> None:
    with running(app, {"w": 9}) as again:
        signature = app.tasks["plain"].signature_from_request(app.tasks["plain"].request)
        assert {key: signature.options.get(key) for key in again} == again


# The task that waits for a chord


def unlock(app: Celery, body_: Any, **options: Any) -> dict[str, Any]:
    return publish(app, "celery.chord_unlock", "group-id", body_, countdown=1, **options)


@pytest.mark.parametrize(
    ("body_", "expected"),
    [
        (lambda s: s("plain"), {}),
        (lambda s: s("plain", dynprio={"weight": 9, "deadline": 5, "key": "k"}), {"w": 9, "due": NOW + 5, "key": "k"}),
        (lambda s: s("plain", priority=3), {"pin": 3}),
        # A worker that does not know the body's task: Celery itself gives the waiting task priority 0 then.
        (lambda s: s("elsewhere", dynprio={"weight": 9}), {"w": 9}),
        (lambda s: s("routed"), {"w": 8}),
        (lambda s: s("work", "acme", immutable=True), {"w": 5, "due": NOW + 30, "key": "acme"}),
        # Its key is in the results of the parts, which are not known yet.
        (lambda s: s("work"), {"w": 5, "due": NOW + 30}),
        (lambda s: chain(s("plain", dynprio={"weight": 9}), s("work", "x")), {"w": 9}),
        (lambda s: chain(s("plain"), s("work", "x")).set(dynprio={"weight": 7}), {"w": 7}),
        (lambda s: group(s("plain", dynprio={"weight": 6}), s("work")), {"w": 6}),
    ],
)
def test_the_task_that_waits_for_a_chord_is_placed_as_its_body(app: Celery, body_: Any, expected: Any) -> None:
    app.conf.update(task_routes={"routed": {"queue": "celery", "dynprio": {"weight": 8}}})

    def sign(name: str, *args: Any, immutable: bool = False, **options: Any) -> Any:
        return app.signature(name, args, options=options, immutable=immutable)

    options = unlock(app, body_(sign), priority=0)
    assert header(options) == {"at": NOW, **expected}
    assert options["priority"] == expected.get(
        "pin", publish(app, "plain", dynprio={"weight": expected.get("w", 1)})["priority"]
    )
    assert options["countdown"] == 1


@pytest.mark.parametrize("args", [(), ("group-id",), ("group-id", None), ("group-id", {"task": 5}), ("group-id", {})])
def test_a_waiting_task_without_a_body_is_like_any_other(app: Celery, args: Any) -> None:
    assert header(publish(app, "celery.chord_unlock", *args)) == {"at": NOW}


def test_the_task_that_waits_for_a_chord_inherits_as_its_body_would(app: Celery) -> None:
    with running(app, PARENT):
        options = unlock(app, app.signature("plain", options={"dynprio": {"weight": 9}}))
    assert header(options) == {"at": NOW, "w": 9, "due": NOW + 3, "key": "parent"}


def test_a_retry_of_the_task_that_waits_for_a_chord_keeps_what_it_had(app: Celery) -> None:
    with running(app, {"at": 1.0, "w": 9, "key": "old"}) as again:
        options = publish(app, "celery.chord_unlock", "group-id", dict(app.signature("plain")), **again)
    assert (header(options), options["priority"]) == ({"at": NOW, "first": 1.0, "w": 9, "key": "old"}, 0)


def test_a_retry_of_the_one_that_a_plain_producer_published_is_placed_as_the_body(app: Celery) -> None:
    body_ = dict(app.signature("plain", options={"dynprio": {"weight": 9}}))
    with running(app, None) as again:
        options = publish(app, "celery.chord_unlock", "group-id", body_, **again)
    assert (header(options), options["priority"]) == ({"at": NOW, "w": 9}, 0)


# The policy


@factor
def broken(_task: PendingTask, _context: Context) -> float:
    raise RuntimeError("boom")


@factor
def nonsense(_task: PendingTask, _context: Context) -> float:
    return math.nan


@pytest.mark.parametrize("policy", [1 * broken, 1 * nonsense])
def test_a_broken_policy_means_the_middle_and_one_line(
    app: Celery, caplog: pytest.LogCaptureFixture, policy: Any
) -> None:
    app.conf.update(dynprio_policy=policy)
    with caplog.at_level(logging.WARNING):
        assert [publish(app)["priority"] for _ in range(5)] == [3] * 5
    assert len(caplog.records) == 1


def test_the_policy_is_bound_now_and_then_and_deadlines_stay_exact() -> None:
    contexts: list[float] = []
    seen: list[tuple[float, float | None]] = []

    class Watching(Weight):
        def bind(self, context: Context) -> Any:
            contexts.append(context.now)

            def score(task: PendingTask) -> float:
                seen.append((task.published, task.deadline))
                return 0.5

            return score

    placement = Placement(1 * Watching(), Scale.of(range(10)))
    for now, slack in ((100.0, 7), (102.5, 7), (104.9, 7), (107.4, 8), (107.5, 7), (90.0, 7)):
        placement.priority("celery", "", "work", {"at": now, "due": now + slack})
    assert contexts == [100.0, 102.5, 107.5, 90.0]  # the first time for a moment only, until a guide may know more
    # Of two tasks that look alike the second is not scored again.
    assert [deadline - published for published, deadline in seen if deadline] == pytest.approx([7, 7, 8, 7, 7])


class Guide:
    """Knows what a test tells it."""

    def __init__(self) -> None:
        self.known: dict[str, Guidance] = {}
        self.heard: list[str] = []
        self.now = 100.0

    def tell(self, known: dict[str, Guidance]) -> None:
        """Know something else, which is seen at the next look."""
        self.known = known
        self.now += LOOK_SECONDS

    def of(self, queue: str) -> Guidance | None:
        return self.known.get(queue)

    def wanted(self, queue: str) -> None:
        self.heard.append(queue)


def test_what_the_leader_told_counts_soon_and_for_its_queue_only() -> None:
    guide = Guide()
    placement = Placement(1 * Weight(), Scale.of(range(10)), guide)

    def levels() -> list[int]:
        return [placement.priority(queue, "", "work", {"at": guide.now, "w": 2.0}) for queue in ("mails", "orders")]

    assert levels() == [7, 7]
    guide.tell({"mails": Guidance(Bands(0.1, 0.2, 10))})
    assert levels() == [0, 7]
    guide.tell({})
    assert levels() == [7, 7]
    assert guide.heard == ["mails", "orders", "mails", "mails"]


def test_producers_score_with_the_runtimes_and_the_use_that_the_leader_knows() -> None:
    guide = Guide()
    figures = Runtimes({"long": 600.0, "short": 1.0}), {"heavy": 900.0, "light": 1.0}
    guide.tell({"celery": Guidance(Bands.equal(10), *figures)})
    placement = Placement(1 * ShortestFirst(scale=60) + 1 * FairShare(), Scale.of(range(10)), guide)

    def level(name: str, key: str) -> int:
        return placement.priority("celery", "", name, {"at": guide.now, "key": key})

    assert level("short", "light") < level("short", "heavy") < level("long", "heavy")


def test_what_waits_and_what_was_published_since_goes_before_a_task_of_the_same_key() -> None:
    guide = Guide()
    use = {"flood": 100.0, "light": 100.0, "third": 100.0}
    guidance = Guidance(Bands.equal(10), Runtimes({"work": 10.0}), use, waiting={"third": 2000.0})
    guide.tell({"celery": guidance})
    placement = Placement(1 * FairShare(), Scale.of(range(10)), guide)

    def level(key: str) -> int:
        return placement.priority("celery", "", "work", {"at": guide.now, "key": key})

    light = level("light")
    assert light < level("third")
    flood = [level("flood") for _ in range(100)]
    assert flood[0] == light
    assert flood == sorted(flood)
    assert flood[-1] > flood[0] + 2
    guide.tell({"celery": replace(guidance)})  # newer: it knows of what was published
    assert level("flood") == flood[0]


def test_levels_in_between_are_published_to_only_while_the_leader_lets_them_be_used() -> None:
    guide = Guide()
    placement = Placement(1 * Weight(), Scale(tuple(range(10)), KOMBU_STEPS), guide)

    def levels() -> list[int]:
        return [placement.priority("celery", "", "work", {"at": guide.now, "w": weight}) for weight in (0, 3, 5, 10)]

    plain = levels()
    assert plain == [9, 6, 3, 0]
    guidance = Guidance(Bands.equal(10))  # as of a leader that says nothing about levels
    guide.tell({"celery": guidance})
    assert levels() == plain
    guide.tell({"celery": replace(guidance, levels=range(10))})
    assert levels() == [9, 6, 4, 0]
    guide.tell({"celery": replace(guidance, levels=(0, 1, 3, 5, 6, 9))})
    assert levels() == [9, 6, 3, 0]
    guide.tell({"celery": replace(guidance, levels=(99, -1))})
    assert levels() == plain
    guide.tell({})
    assert levels() == plain


def test_guidance_for_another_number_of_levels_counts_for_nothing() -> None:
    guide = Guide()
    guide.tell({"celery": Guidance(Bands(0.1, 0.2, 4))})
    assert Placement(1 * Weight(), Scale.of(range(10)), guide).priority("celery", "", "work", {"at": 1.0}) == 8


# What only the message tells


def signatures(app: Celery) -> Any:
    return app.tasks["plain"].si


def body(chain_: Any = None, chord_: Any = None) -> Any:
    return (), {}, {"callbacks": None, "errbacks": None, "chain": chain_, "chord": chord_}


def test_dependents_are_counted_through_canvas(app: Celery) -> None:
    s = signatures(app)
    assert dependents(body()) == 0
    assert dependents(body([s(), s()])) == 2
    assert dependents(body(None, s())) == 1
    assert dependents(body([s()], s())) == 2
    assert dependents(body([group(s(), s(), s()), s()])) == 4
    assert dependents(body([chord([s(), s()], s())])) == 3
    assert dependents(body([chain(s(), group(s(), s()), s())])) == 4
    assert dependents(body(None, s().set(chain=[s(), s()]))) == 3


@pytest.mark.parametrize("foreign", [{"task": "v1"}, None, 5, body([5, None, "x", {}], 7), body([{"kwargs": None}])])
def test_foreign_bodies_have_few_dependents(foreign: Any) -> None:
    assert dependents(foreign) <= 1


def test_dependents_are_counted_in_protocol_1(app: Celery) -> None:
    assert dependents({"task": "part", "chord": signatures(app)()}) == 1


def router_of(app: Celery) -> DynPrioRouter:
    installed = DynPrio.of(app)
    assert installed is not None
    return installed._router


def test_the_receiver_touches_only_what_its_own_router_sent(app: Celery) -> None:
    complete = router_of(app).complete
    options = publish(app)
    properties = {"priority": 1}
    complete(headers={"dynprio": dict(header(options))}, properties=properties, body=body(["not ours"]))
    complete(headers={}, properties=properties, body=body())
    complete(None, None, None)
    assert properties == {"priority": 1}


def test_the_receiver_never_raises(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    options = publish(app)
    router_of(app).complete(headers=options["headers"], properties=None, body=((), {}))
    assert len(caplog.records) == 1


def test_what_replaces_a_task_takes_its_place(app: Celery) -> None:
    with running(app, {**PARENT, "pin": None}, replaced_task_nesting=0):
        options = publish(app, "work", dynprio={"key": "mine"})
        headers = {**options["headers"], "replaced_task_nesting": 1}
        properties = {"priority": options["priority"]}
        router_of(app).complete(headers=headers, properties=properties, body=body())
    assert headers["dynprio"] == {"at": NOW, "w": 7, "due": NOW + 3, "key": "mine"}
    assert properties["priority"] == 0
