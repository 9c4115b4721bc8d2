"""DynPrio in an app: installed whenever, undone completely, plain Celery on other brokers."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from celery import Celery, signals

import celery_dynprio
from celery_dynprio import DynPrio, Weight, dynprio_task
from celery_dynprio.errors import DynPrioError, SettingError
from celery_dynprio.levels import Scale
from celery_dynprio.policies import Policy

REDIS = "redis://127.0.0.1:1/0"
TEN = list(range(10))


def make_app(broker: str | None = REDIS) -> Celery:
    return Celery("app", broker=broker, set_as_current=False)


def is_managed(app: Celery, name: str = "work", **options: Any) -> bool:
    return "priority" in app.amqp.router.route(dict(options), name, (), {})


def test_the_public_names() -> None:
    assert celery_dynprio.__all__ == [
        "Age",
        "Context",
        "Deadline",
        "Dependents",
        "DynPrio",
        "DynPrioError",
        "DynPrioTask",
        "Estimate",
        "Factor",
        "FairShare",
        "Filter",
        "Gauge",
        "Max",
        "Min",
        "Objective",
        "PendingTask",
        "Policy",
        "Runtimes",
        "ShortestFirst",
        "Weight",
        "default_policy",
        "dynprio_task",
        "factor",
    ]
    assert all(hasattr(celery_dynprio, name) for name in celery_dynprio.__all__)


def test_importing_does_nothing_slow() -> None:
    script = "import sys, threading, celery_dynprio; print('redis' in sys.modules, threading.active_count())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "1"]


def test_installing_does_not_configure_the_app() -> None:
    app = make_app()
    DynPrio(app)
    assert not app.configured


# Before, after, lazily


def configure(app: Celery) -> None:
    app.conf.update(
        dynprio_queues=["managed"],
        dynprio_policy=1 * Weight(),
        task_routes={"work": "managed"},
        broker_transport_options={"visibility_timeout": 77},
    )


def configure_by_attributes(app: Celery) -> None:
    app.conf.dynprio_queues = ["managed"]
    app.conf.dynprio_policy = 1 * Weight()
    app.conf.task_routes = {"work": "managed"}
    app.conf.broker_transport_options = {"visibility_timeout": 77}


def configure_from_object(app: Celery) -> None:
    module = ModuleType("config")
    vars(module).update(
        CELERY_DYNPRIO_QUEUES=["managed"],
        CELERY_DYNPRIO_POLICY=1 * Weight(),
        CELERY_TASK_ROUTES={"work": "managed"},
        CELERY_BROKER_TRANSPORT_OPTIONS={"visibility_timeout": 77},
    )
    app.config_from_object(module, namespace="CELERY")


def read(app: Celery) -> None:
    assert app.conf.task_default_queue


CONFIGURE = [configure, configure_by_attributes, configure_from_object]


@pytest.mark.parametrize("how", CONFIGURE)
@pytest.mark.parametrize("order", ["before", "after", "before and read", "read and after", "after read and installed"])
def test_settings_may_come_at_any_time_before_they_are_needed(how: Callable[[Celery], None], order: str) -> None:
    app = make_app()
    if order == "before":
        how(app)
        DynPrio(app)
    elif order == "after":
        DynPrio(app)
        how(app)
    elif order == "before and read":
        how(app)
        read(app)
        DynPrio(app)
    elif order == "read and after":
        read(app)
        DynPrio(app)
        how(app)
    else:
        DynPrio(app)
        read(app)
        how(app)
    installed = DynPrio.of(app)
    assert installed is not None
    assert is_managed(app)
    assert not is_managed(app, "other")
    assert installed.settings.queues == ("managed",)
    assert app.conf.broker_transport_options == {"visibility_timeout": 77, "priority_steps": TEN}
    assert app.connection_for_write().transport_options["priority_steps"] == TEN


def test_routes_updated_later_are_seen_as_in_celery() -> None:
    app = make_app()
    DynPrio(app)
    assert is_managed(app)
    app.conf.update(task_routes={"work": "other"})
    assert not is_managed(app)


def test_init_app_later() -> None:
    dynprio = DynPrio()
    with pytest.raises(DynPrioError, match="call init_app"):
        _ = dynprio.settings
    app = make_app()
    dynprio.init_app(app)
    assert dynprio.app is app
    assert is_managed(app)


def test_the_users_steps_are_kept() -> None:
    app = make_app()
    options = {"priority_steps": [0, 5]}
    app.conf.broker_transport_options = options
    dynprio = DynPrio(app)
    assert dynprio.settings
    assert app.conf.broker_transport_options is options
    dynprio.uninstall()
    assert app.conf.broker_transport_options is options


@pytest.mark.parametrize(
    ("options", "plain"),
    [
        (None, (0, 3, 6, 9)),
        ({"visibility_timeout": 77}, (0, 3, 6, 9)),
        ({"priority_steps": [0, 5]}, (0, 5)),
        ({"priority_steps": TEN}, tuple(TEN)),
    ],
)
def test_it_knows_the_steps_of_the_app_without_it(options: Any, plain: tuple[int, ...]) -> None:
    app = make_app()
    if options is not None:
        app.conf.broker_transport_options = options
    assert DynPrio(app).plain_steps == plain


def test_it_knows_its_steps_in_options_that_were_made_of_its_own() -> None:
    app = make_app()
    dynprio = DynPrio(app)
    app.conf.broker_transport_options = {**app.conf.broker_transport_options, "visibility_timeout": 77}
    assert dynprio.plain_steps == (0, 3, 6, 9)
    with app.connection_for_write() as connection, connection.clone() as clone:
        assert Scale.of(clone.transport_options["priority_steps"]).plain_numbers == (0, 3, 6, 9)


def test_steps_that_the_user_sets_after_ours_are_the_users() -> None:
    app = make_app()
    dynprio = DynPrio(app)
    assert list(dynprio.plain_steps) == [0, 3, 6, 9]
    app.conf.broker_transport_options = {"priority_steps": [0, 5]}
    assert list(dynprio.plain_steps) == [0, 5]


@pytest.mark.parametrize("steps", [[], [1, 2], [0, 3, 2], [0, 0, 1], [0, 10], [0, "3"], "0", [False, 1], 5])
def test_steps_that_kombu_cannot_use_are_an_error(steps: Any) -> None:
    app = make_app()
    app.conf.broker_transport_options = {"priority_steps": steps}
    with pytest.raises(SettingError, match=r"broker_transport_options\['priority_steps'\] = "):
        _ = DynPrio(app).settings


def test_settings_are_read_once() -> None:
    app = make_app()
    dynprio = DynPrio(app)
    assert dynprio.settings is dynprio.settings
    assert isinstance(dynprio.settings.policy, Policy)


def test_wrong_settings_fail_at_the_first_publish_too() -> None:
    app = make_app()
    app.conf.update(dynprio_window=-1)
    DynPrio(app)
    with pytest.raises(SettingError, match="dynprio_window = -1"):
        is_managed(app)


@pytest.mark.parametrize("setting", ["dynprio_windw", "dynprio_window"])
def test_wrong_settings_stop_whatever_imports_the_apps_modules(setting: str) -> None:
    """Workers, beat and shells do; tests/integration/test_producer.py shows a worker."""
    app = make_app()
    app.conf.update({setting: -1})
    dynprio = DynPrio(app)
    with pytest.raises(SettingError, match=f"{setting} = -1"):
        app.loader.import_default_modules()
    dynprio.uninstall()
    app.loader.import_default_modules()


# Undoing


def traces(app: Celery) -> dict[str, Any]:
    """All that installing could leave behind; routing first, so that Celery's own caches are there."""
    is_managed(app)
    _ = app.events
    watched = (
        signals.before_task_publish,
        signals.import_modules,
        signals.celeryd_after_setup,
        signals.task_prerun,
        signals.task_postrun,
        signals.worker_process_shutdown,
        signals.worker_shutdown,
        app.on_after_configure,
    )
    return {
        "attributes": set(vars(app)),
        "amqp": {name for name in vars(app.amqp) if name not in {"router", "queues"}},
        "receivers": [len(signal.receivers) for signal in watched],
        "steps": {kind: set(steps) for kind, steps in app.steps.items() if steps},
        "options": app.conf.broker_transport_options,
        "changes": dict(app.conf.changes),
        "routes": app.conf.task_routes,
        "table": [type(route) for route in app.amqp.routes],
    }


def test_uninstall_restores_a_config_with_a_namespace() -> None:
    app = make_app()
    configure_from_object(app)
    before = traces(app)
    dynprio = DynPrio(app)
    assert dynprio.settings
    dynprio.uninstall()
    assert traces(app) == before


@pytest.mark.parametrize("options", [None, {}, {"visibility_timeout": 77}])
def test_uninstall_leaves_no_trace(options: dict[str, Any] | None) -> None:
    app = make_app()
    app.steps["consumer"].add("mine")
    if options is not None:
        app.conf.broker_transport_options = options
    app.conf.task_routes = {"other": "elsewhere"}
    before = traces(app)
    dynprio = DynPrio(app)
    assert is_managed(app)
    assert traces(app) != before
    dynprio.uninstall()
    assert traces(app) == before
    assert not is_managed(app)
    assert DynPrio.of(app) is None
    dynprio.uninstall()
    assert traces(app) == before
    dynprio.init_app(app)
    assert is_managed(app)


def test_installing_twice_changes_nothing() -> None:
    app = make_app()
    dynprio = DynPrio(app)
    before = traces(app)
    dynprio.init_app(app)
    assert traces(app) == before


def test_another_takes_the_place() -> None:
    app = make_app()
    first = DynPrio(app)
    before = traces(app)
    second = DynPrio(app)
    assert DynPrio.of(app) is second
    assert traces(app) == before
    with pytest.raises(DynPrioError):
        _ = first.app


def test_options_that_the_user_set_since_are_left_alone() -> None:
    app = make_app()
    dynprio = DynPrio(app)
    assert dynprio.settings
    app.conf.broker_transport_options = {"visibility_timeout": 5}
    dynprio.uninstall()
    assert app.conf.broker_transport_options == {"visibility_timeout": 5}


def test_two_apps_do_not_meet() -> None:
    first, second = make_app(), make_app()
    one = DynPrio(first)
    DynPrio(second)
    one.uninstall()
    assert not is_managed(first)
    assert is_managed(second)


# Other brokers, and none


@pytest.mark.parametrize("broker", ["memory://", "amqp://guest@127.0.0.1:1//"])
def test_on_other_brokers_nothing_is_touched_but_the_option(broker: str) -> None:
    app = make_app(broker)
    DynPrio(app)
    options = app.amqp.router.route({"dynprio": {"weight": 9}}, "work", (), {})
    assert set(options) == {"queue"}
    assert not app.conf.broker_transport_options


def test_workers_on_other_brokers_say_so_once(caplog: pytest.LogCaptureFixture) -> None:
    app, other = make_app("memory://localhost/"), make_app()
    dynprio, on_redis = DynPrio(app), DynPrio(other)
    with caplog.at_level(logging.WARNING):
        for instance in (app, other):
            signals.celeryd_after_setup.send(sender="w", instance=SimpleNamespace(app=instance), conf=instance.conf)
    (record,) = caplog.records
    assert "localhost// is no Redis: tasks in celery are run as plain Celery runs them" in record.getMessage()
    for installed in (dynprio, on_redis):
        installed.uninstall()


@pytest.mark.parametrize("broker", ["memory://", REDIS])
def test_eager_tasks_take_the_options(broker: str) -> None:
    app = make_app(broker)
    app.conf.update(task_always_eager=True, broker_connection_retry=False)
    DynPrio(app)

    @dynprio_task(app=app, shared=False, name="double", weight=5, key="n")
    def double(n: int) -> int:
        return 2 * n

    assert double.apply((2,), dynprio={"weight": 3}).get() == 4
    if broker == "memory://":
        assert double.apply_async((2,), dynprio={"weight": 3}).get() == 4
        assert double.s(2).set(dynprio={"weight": 3}).delay().get() == 4


def test_pause_needs_the_broker() -> None:
    dynprio = DynPrio(make_app())
    with pytest.raises(DynPrioError, match="does not answer"):
        dynprio.pause()
