"""Calls go the way that they would go if none had gone before."""

from __future__ import annotations

import re
from typing import Any

import kombu.entity
import pytest
from celery import Celery, signals
from hypothesis import given
from hypothesis import strategies as st

from celery_dynprio import DynPrio, Weight, dynprio_task, tracing
from celery_dynprio.producer.router import DynPrioRouter

Exchange: Any = kombu.entity.Exchange
Queue: Any = kombu.entity.Queue

NOW = 1_700_000_000.0

QUEUES = [
    Queue("celery"),
    Queue("other"),
    Queue("managed-topic", Exchange("events", "topic"), routing_key="order.#"),
    Queue("managed-direct", Exchange("direct"), routing_key="d", alias="nick"),
]


def make_app(**conf: Any) -> tuple[Celery, DynPrioRouter]:
    app = Celery("ways", broker="redis://127.0.0.1:1/0", set_as_current=False)
    app.conf.update(
        task_queues=QUEUES,
        dynprio_queues=["celery", "managed-topic", "managed-direct"],
        dynprio_policy=1 * Weight(),
        **conf,
    )
    installed = DynPrio(app)
    installed._router._clock = lambda: NOW

    @dynprio_task(app=app, shared=False, name="work", weight=5, deadline=30, key="tenant")
    def work(tenant: Any = "acme") -> None: ...

    @app.task(shared=False, name="plain")
    def plain(tenant: Any = "acme") -> None: ...

    return app, installed._router


def publish(app: Celery, router: DynPrioRouter, name: str = "work", *args: Any, **options: Any) -> dict[str, Any]:
    task = app.tasks.get(name)
    preset = {} if task is None else task._get_exec_options()
    return router.route(app.amqp.router, {**preset, **options}, name, args, {}, task)


def anew(app: Celery, router: DynPrioRouter) -> DynPrioRouter:
    """A router that has routed nothing."""
    return DynPrioRouter(app, router._routing, router._clock)


CALLS = st.tuples(
    st.sampled_from(["work", "plain", "elsewhere"]),
    st.lists(st.sampled_from(["globex", None, "x" * 2000]), max_size=1),
    st.fixed_dictionaries(
        {},
        optional={
            "queue": st.sampled_from([None, "celery", "other", "managed-topic", "nick", *QUEUES]),
            "routing_key": st.sampled_from([None, "d", "order.new"]),
            "exchange": st.sampled_from([None, "direct", "events"]),
            "priority": st.sampled_from([None, 0, 3]),
            "serializer": st.sampled_from(["json", "pickle"]),
            "headers": st.sampled_from([None, {}, {"a": 1}, {"dynprio": {"weight": 7}}]),
            "dynprio": st.sampled_from([None, {"weight": 3}, {"key": None}]),
            "mandatory": st.sampled_from([None, True, False, 1]),
            "reply_to": st.sampled_from([None, "me"]),
        },
    ),
)


@given(st.lists(CALLS, min_size=2, max_size=8))
def test_a_call_goes_where_it_would_go_first(calls: list[tuple[str, list[Any], dict[str, Any]]]) -> None:
    app, router = make_app()
    for name, args, options in calls:
        for _ in range(2):
            assert publish(app, router, name, *args, **options) == publish(
                app, anew(app, router), name, *args, **options
            )


def test_the_same_call_again_is_not_routed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    app, router = make_app()
    first = publish(app, router)
    monkeypatch.setattr(router, "_merge", None)
    assert publish(app, router) == first
    assert publish(app, router, "work", "globex")["headers"]["dynprio"]["key"] == "globex"


def test_each_call_is_given_dicts_of_its_own() -> None:
    app, router = make_app()
    publish(app, router)
    first, second = publish(app, router), publish(app, router)
    first["headers"]["dynprio"]["w"] = first["headers"]["mine"] = 9
    assert second["headers"] == {"dynprio": {"w": 5, "due": NOW + 30, "key": "acme", "at": NOW}}


def test_another_queue_of_the_name_is_seen() -> None:
    app, router = make_app()
    publish(app, router)
    app.amqp.queues["celery"] = Queue("celery", Exchange("all", "fanout"))
    assert publish(app, router)["queue"].exchange.type == "fanout"


def test_routes_that_come_later_are_seen() -> None:
    app, router = make_app()
    publish(app, router)
    app.amqp.router.routes = [lambda *_, **__: {"queue": "other"}]
    assert "headers" not in publish(app, router)


def test_other_settings_are_seen_once_the_addon_is_installed_anew() -> None:
    app, router = make_app()
    publish(app, router)
    app.conf.task_default_queue = "other"
    DynPrio(app)
    assert "headers" not in app.amqp.router.route({}, "work", (), {}, app.tasks["work"])


def test_what_a_task_does_not_say_is_left_out() -> None:
    app, router = make_app()
    for _ in range(2):
        routed = publish(app, router, "work", serializer="json", correlation_id=None)
        assert routed.keys().isdisjoint({"exchange", "routing_key", "delivery_mode", "compression", "mandatory"})
        assert (routed["serializer"], routed["correlation_id"], routed["queue"].name) == ("json", None, "celery")


def test_another_task_of_the_name_is_seen() -> None:
    app, router = make_app()
    publish(app, router)
    options = app.tasks["work"]._get_exec_options()
    routed = router.route(app.amqp.router, options, "work", (), {}, app.tasks["plain"])
    assert routed["headers"]["dynprio"] == {"at": NOW}


def test_a_call_in_a_task_is_routed_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    app, router = make_app()
    publish(app, router, "plain")
    task = app.tasks["work"]
    task.push_request(id="1", called_directly=False, delivery_info={}, dynprio={"key": "globex", "at": NOW})
    monkeypatch.setattr("celery_dynprio.producer.router.get_current_worker_task", lambda: task)
    with tracing.use():
        assert publish(app, router, "plain")["headers"]["dynprio"]["key"] == "globex"


# What the one receiver writes into the message of such a call

TRACE = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01")


def send(routed: dict[str, Any], name: str = "work", chain: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The headers and properties with which Celery publishes it."""
    headers = {"task": name, "id": "1", **routed["headers"]}
    properties = {"priority": routed["priority"]}
    body: Any = (), {}, {"callbacks": None, "errbacks": None, "chain": chain, "chord": None}
    signals.before_task_publish.send(name, headers=headers, properties=properties, body=body)
    return headers, properties


@pytest.mark.parametrize("first", [0, 1])
def test_of_two_apps_the_one_that_routes_a_task_writes_its_trace(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    apps = [make_app() for _ in range(2)]
    app, router = apps[first]
    monkeypatch.setattr(DynPrio.of(apps[1 - first][0])._propagation, "write", None)  # type: ignore[union-attr]
    for chain in (None, None, [app.tasks["plain"].si()]):
        headers, _ = send(publish(app, router), chain=chain)
        assert TRACE.fullmatch(headers["traceparent"])


def test_what_waits_for_a_task_and_a_trace_around_it_are_seen_at_each_call() -> None:
    app, router = make_app()
    for _ in range(2):
        headers, _ = send(publish(app, router))
        assert headers.keys() == {"task", "id", "dynprio", "traceparent"}
        assert "n" not in headers["dynprio"]
        headers, _ = send(publish(app, router), chain=[app.tasks["plain"].si()])
        assert headers["dynprio"]["n"] == 1
        with tracing.use() as span:
            headers, _ = send(publish(app, router))
        assert headers["traceparent"].split("-")[1] == span.trace_id
        assert headers["dynprio_lineage"][2] == span.span_id
        trace = {"traceparent": span.traceparent, "dynprio_lineage": "of another message"}
        headers, _ = send(publish(app, router, headers=trace))
        assert headers["traceparent"].split("-")[1] == span.trace_id
        assert headers["dynprio_lineage"][2] == span.span_id


def test_another_message_after_a_plain_one_is_not_taken_for_it() -> None:
    app, router = make_app()
    headers, _ = send(publish(app, router))
    again = {**headers, "dynprio": dict(headers["dynprio"])}
    signals.before_task_publish.send("work", headers=again, properties={"priority": 7}, body=((), {}, {}))
    assert again["traceparent"] != headers["traceparent"]
    assert again["traceparent"].split("-")[1] == headers["traceparent"].split("-")[1]
