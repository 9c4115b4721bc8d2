"""Metrics and events of real processes: ``dynprio run``, workers, and the reprioritizer that a worker starts."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from celery import Celery

from celery_dynprio import tracing
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.switch import RedisSwitch
from celery_dynprio.models import Outcome
from celery_dynprio.monitoring.events import TYPE, EventSender
from tests.apps import make_app
from tests.conftest import MakeProject, StartCelery, StartServer, StartWorker
from tests.nodes import ProcessNode, Project
from tests.processes import Process, free_port, wait_until
from tests.prometheus import families, promtool, scrape, value
from tests.servers import Database
from tests.unit.test_events import moved
from tests.unit.test_metrics import everything

BODY = """
    from celery_dynprio import DynPrio, Objective, Weight, dynprio_task

    app.conf.update(
        dynprio_objectives=[Objective("work soon", "*.work", within=600)],
        dynprio_policy=1 * Weight(), dynprio_lease_ttl=3.0, dynprio_interval=0.2,
        task_ignore_result=True,
    )
    dynprio = DynPrio(app)

    @dynprio_task(app=app, key="customer", deadline=60)
    def work(customer):
        return customer
"""

READY = "dynprio ready"


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def project(valkey: Database, make_project: MakeProject, port: int) -> Project:
    conf = {"dynprio_metrics_port": port, "dynprio_events": True, "dynprio_embedded": False}
    return make_project(valkey.url, BODY, conf=conf)


def publish(project: Project, client: Any, count: int) -> None:
    """Publish tasks, and put them where they do not belong."""
    for number in range(count):
        project.load().work.apply_async((f"customer {number % 3}",), dynprio={"weight": 10})
    for level in ("celery", *(f"celery\x06\x16{priority}" for priority in range(1, 9))):
        while client.lmove(level, "celery\x06\x169", "RIGHT", "LEFT"):
            pass


def test_all_metrics_are_exported_as_prometheus_wants_them(
    valkey: Database, project: Project, port: int, start_celery: StartCelery, start_worker: StartWorker
) -> None:
    valkey.client.lpush("celery", "not JSON")
    publish(project, valkey.client, 20)
    start_celery(project, "dynprio", "run", ready_line=READY)
    wait_until(lambda: (value(scrape(port), "dynprio_moves_total") or 0) >= 20, message="all were moved")
    assert value(scrape(port), "dynprio_pending", queue="celery") == 21
    assert value(scrape(port), "dynprio_left_alone", queue="celery", reason="not JSON") == 1
    assert valkey.client.lrem("celery\x06\x169", 0, "not JSON") == 1  # it would end a worker of plain Celery
    start_worker(project)
    wait_until(lambda: value(scrape(port), "dynprio_task_run_seconds_count") == 20, message="the worker's runs")

    def used() -> set[str]:
        use = families(scrape(port)).get("dynprio_use_seconds")
        return {sample.labels["key"] for sample in use.samples} if use else set()

    wait_until(lambda: used() == {f"customer {number}" for number in range(3)}, message="what they used")

    wait_until(lambda: value(scrape(port), "dynprio_objective_attainment_ratio", objective="work soon") == 1)

    text = scrape(port)

    assert value(text, "dynprio_task_wait_seconds_count") == 20
    assert value(text, "dynprio_deadlines_total", outcome="in_time") == 20
    assert set(families(text)) == set(families(everything()))
    promtool("check", "metrics", text=text)


def test_spans_that_are_dropped_are_counted(
    valkey: Database, make_project: MakeProject, port: int, start_worker: StartWorker
) -> None:
    project = make_project(valkey.url, BODY, conf={"dynprio_metrics_port": port, "dynprio_trace_max_spans": 5})
    start_worker(project)
    work = project.load().work
    wait_until(lambda: value(scrape(port), "dynprio_spans_dropped_total", cause="no_room") == 0)
    with tracing.use():
        for _ in range(8):
            work.delay("x")
    wait_until(lambda: (value(scrape(port), "dynprio_spans_dropped_total", cause="no_room") or 0) >= 3)
    assert value(scrape(port), "dynprio_spans_dropped_total", cause="not_sent") == 0
    valkey.client.delete("dynprio:traces")
    valkey.client.set("dynprio:traces", "not a sorted set")
    with tracing.use():
        work.delay("x")
    wait_until(lambda: (value(scrape(port), "dynprio_spans_dropped_total", cause="not_sent") or 0) >= 1)


def test_a_standby_and_a_pause_are_visible(
    valkey: Database, make_project: MakeProject, port: int, start_celery: StartCelery
) -> None:
    body = BODY.replace("dynprio_lease_ttl=3.0", "dynprio_lease_ttl=60.0")
    project = make_project(valkey.url, body, conf={"dynprio_metrics_port": port, "dynprio_embedded": False})
    other = free_port()
    publish(project, valkey.client, 3)
    start_celery(project, "dynprio", "run", ready_line=READY)
    wait_until(lambda: value(scrape(port), "dynprio_leader") == 1)
    start_celery(project, "dynprio", "run", "--metrics-port", str(other), name="standby", ready_line=READY)
    wait_until(lambda: value(scrape(other), "dynprio_role", queue="celery", role="standby") == 1)
    text = scrape(other)
    assert value(text, "dynprio_leader", queue="celery") == 0
    assert value(text, "dynprio_pending") is None

    RedisSwitch(RedisClient.from_app(project.app)).pause()

    wait_until(lambda: value(scrape(port), "dynprio_role", queue="celery", role="paused") == 1)
    publish(project, valkey.client, 2)
    wait_until(lambda: value(scrape(port), "dynprio_pending", queue="celery") == 5, message="a pause hides nothing")
    assert value(scrape(port), "dynprio_leader", queue="celery") == 1


def test_a_port_that_is_taken_is_had_later(
    valkey: Database, project: Project, port: int, start_celery: StartCelery
) -> None:
    first = start_celery(project, "dynprio", "run", name="first", ready_line=READY)
    wait_until(lambda: scrape(port))
    second = start_celery(project, "dynprio", "run", name="second", ready_line=READY)
    second.wait_for_log("no metrics yet, trying again")
    first.kill("SIGTERM")
    assert first.exit_code == 0
    second.wait_for_log("celery: read")
    wait_until(lambda: value(scrape(port), "dynprio_leader", queue="celery") == 1)


def test_the_reprioritizer_of_a_worker_exports_too(
    valkey: Database, make_project: MakeProject, port: int, start_worker: StartWorker
) -> None:
    project = make_project(valkey.url, BODY, conf={"dynprio_metrics_port": port})
    worker = start_worker(project)
    project.load().work.delay("x")
    wait_until(lambda: value(scrape(port), "dynprio_leader", queue="celery") == 1)
    wait_until(lambda: value(scrape(port), "dynprio_task_run_seconds_count") == 1)
    worker.kill("SIGTERM")
    assert "Traceback" not in worker.logs()
    assert scrape(port) == ""


def test_a_broker_that_is_away_is_counted(
    start_server: StartServer, make_project: MakeProject, port: int, start_celery: StartCelery
) -> None:
    broker = start_server()
    project = make_project(broker.url(), BODY, conf={"dynprio_metrics_port": port, "dynprio_events": True})
    run = start_celery(project, "dynprio", "run", ready_line=READY)
    wait_until(lambda: value(scrape(port), "dynprio_leader", queue="celery") == 1)
    broker.stop()
    wait_until(lambda: (value(scrape(port), "dynprio_tick_errors_total", cause="broker") or 0) > 0)
    wait_until(lambda: value(scrape(port), "dynprio_leader", queue="celery") == 0, message="its lease is over")
    assert value(scrape(port), "dynprio_pending") is None
    broker.restart()
    wait_until(lambda: value(scrape(port), "dynprio_leader", queue="celery") == 1)
    run.kill("SIGTERM")
    assert run.exit_code == 0


WITHOUT = "import sys; sys.modules['prometheus_client'] = None; from celery.__main__ import main; sys.exit(main())"


@pytest.fixture
def without_extra(project: Project, started: list[Process]) -> Callable[..., ProcessNode]:
    """Starts commands of the project as on a machine without prometheus_client."""

    def start(*arguments: str) -> ProcessNode:
        line = [sys.executable, "-c", WITHOUT, "-A", project.name, *arguments]
        process = Process("without", line, project.directory)
        started.append(process)
        process.start()
        return ProcessNode(process)

    return start


def test_without_the_extra_one_line_names_it(
    valkey: Database, port: int, without_extra: Callable[..., ProcessNode]
) -> None:
    run = without_extra("dynprio", "run")
    assert run.wait() == 1
    said = run.logs().strip().splitlines()
    assert said[-1] == (
        f'Error: dynprio_metrics_port = {port}: it needs a package: pip install "prometheus-client>=0.20"'
    )
    assert len(said) == 1


def test_the_reprioritizer_of_a_worker_goes_on_without_the_extra(
    valkey: Database, project: Project, without_extra: Callable[..., ProcessNode]
) -> None:
    run = without_extra("dynprio", "run", "--embedded", f"worker@host:{os.getpid()}:1")
    run.wait_for_log('pip install "prometheus-client>=0.20"; going on without metrics')
    run.wait_for_log("celery: read")


def test_where_monitoring_is_off_nothing_of_it_is_imported(valkey: Database, make_project: MakeProject) -> None:
    # Not prometheus_client itself: Flower imports it, and Celery loads Flower's command with each of its own.
    body = BODY + (
        "    app.conf.dynprio_objectives = []\n"
        "    import atexit, sys\n"
        "    off = [f'celery_dynprio.monitoring.{name}' for name in ('events', 'prometheus', 'server', 'flower')]\n"
        "    atexit.register(lambda: print('imported:', [name for name in off if name in sys.modules]))\n"
    )
    project = make_project(valkey.url, body)
    command = [sys.executable, "-m", "celery", "-A", project.name, "dynprio", "run", "--once"]
    process = Process("once", command, project.directory)
    process.start()
    assert process.wait() == 0
    assert "imported: []" in process.logs()


@contextmanager
def receiving(app: Celery, seen: list[dict[str, Any]], *types: str) -> Iterator[Callable[[], None]]:
    """Collect our events, moves by default; what is given receives what has come by then."""
    with (
        app.connection_for_read() as connection,
        app.events.Receiver(connection, handlers=dict.fromkeys(types or (TYPE,), seen.append)).consumer_context() as (
            own,
            _,
            _,
        ),
    ):

        def receive() -> None:
            with suppress(TimeoutError):
                own.drain_events(timeout=0.1)

        receive()  # which subscribes
        yield receive


def test_moves_are_sent_as_events(valkey: Database, project: Project, start_celery: StartCelery) -> None:
    seen: list[dict[str, Any]] = []
    publish(project, valkey.client, 5)
    with receiving(make_app(valkey.url), seen) as receive, valkey.client.pubsub() as messages:  # type: ignore[no-untyped-call]
        messages.psubscribe("*celeryev/dynprio*")
        start_celery(project, "dynprio", "run", ready_line=READY)
        wait_until(lambda: receive() or len(seen) >= 5)
        subscribed, *told = iter(lambda: messages.get_message(timeout=0.5), None)
    assert subscribed["type"] == "psubscribe"
    assert all(each["channel"].endswith(b"dynprio.multi") for each in told)
    assert 1 <= len(told) < 5  # several in a message; the first ones may go before the others are put to them
    assert {(event["queue"], event["from"], event["reason"]) for event in seen} == {("celery", "P9", "score")}
    assert {event["name"] for event in seen} == {project.load().work.name}
    assert len({event["uuid"] for event in seen}) == 5
    assert len({event["trace_id"] for event in seen} - {""}) == 5
    assert all(event["hostname"].startswith("dynprio@") for event in seen)


def test_events_go_on_after_a_restart_of_the_broker(start_server: StartServer) -> None:
    broker = start_server()
    app = make_app(broker.url())
    events = EventSender(app)
    seen: list[dict[str, Any]] = []

    def sends() -> bool:
        events.observe(moved(Outcome.MOVED))
        return bool(seen)

    with receiving(app, seen) as receive:
        wait_until(lambda: receive() or sends())
    broker.stop()
    events.observe(moved(Outcome.MOVED))
    wait_until(events.dropped)
    broker.restart()
    seen.clear()
    with receiving(app, seen) as receive:
        wait_until(lambda: receive() or sends())
    events.close()
