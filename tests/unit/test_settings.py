"""Settings in every way that Celery takes them, and what wrong ones say."""

from __future__ import annotations

import math
import sys
from dataclasses import fields, replace
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest
from celery import Celery

from celery_dynprio.errors import SettingError
from celery_dynprio.objectives import Objective
from celery_dynprio.policies import Weight
from celery_dynprio.settings import Settings

MINE = 2 * Weight()


def make_app() -> Celery:
    return Celery("settings", broker="redis://127.0.0.1:1/0", set_as_current=False)


def config(**values: Any) -> ModuleType:
    module = ModuleType("config")
    vars(module).update(values)
    return module


def test_the_defaults_manage_the_default_queue() -> None:
    app = make_app()
    app.conf.task_default_queue = "orders"
    settings = Settings.from_app(app)
    assert settings.queues == ("orders",)
    assert (settings.interval, settings.window, settings.embedded) == (1.0, 10_000, True)


def test_conf_update_and_attributes() -> None:
    app = make_app()
    app.conf.update(dynprio_queues=["a", "b", "a"])
    app.conf.dynprio_interval = 2
    settings = Settings.from_app(app)
    assert (settings.queues, settings.interval) == (("a", "b"), 2.0)


@pytest.mark.parametrize(
    ("namespace", "name"),
    [
        (None, "dynprio_window"),
        (None, "DYNPRIO_WINDOW"),
        (None, "CELERY_DYNPRIO_WINDOW"),
        ("CELERY", "CELERY_DYNPRIO_WINDOW"),
        ("PROJ", "PROJ_DYNPRIO_WINDOW"),
        ("proj", "proj_dynprio_window"),
    ],
)
def test_config_objects(namespace: str | None, name: str) -> None:
    app = make_app()
    app.config_from_object(config(**{name: 7}), namespace=namespace)
    assert Settings.from_app(app).window == 7


def test_what_is_set_on_the_app_wins_over_the_config_object() -> None:
    app = make_app()
    app.config_from_object(config(CELERY_DYNPRIO_WINDOW=7), namespace="CELERY")
    app.conf.update(dynprio_window=8)
    assert Settings.from_app(app).window == 8


@pytest.mark.parametrize(
    "name", ["DYNPRIO_ENABLED", "DYNPRIO_WINDOW", "dynprio_helpers", "PROJ_DYNPRIO_X", "MY_DYNPRIO_X"]
)
def test_with_a_namespace_other_names_are_the_users_own(name: str) -> None:
    app = make_app()
    app.config_from_object(config(**{name: "mine", "CELERY_DYNPRIO_QUEUES": ["a"]}), namespace="CELERY")
    found = Settings.from_app(app)
    assert found == replace(Settings(("a",)), policy=found.policy)


def test_a_setting_that_lacks_the_namespace_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    app = make_app()
    values = {"DYNPRIO_WINDOW": 7, "DYNPRIO_QUEUES": ["a"], "CELERY_DYNPRIO_QUEUES": ["b"], "DYNPRIO_OWN": 1}
    app.config_from_object(config(**values), namespace="CELERY")
    assert Settings.from_app(app).window == 10_000
    assert caplog.messages == ["DYNPRIO_WINDOW is not read: with the namespace of this app it is CELERY_DYNPRIO_WINDOW"]


def test_what_is_set_on_an_app_with_a_namespace_is_ours() -> None:
    app = make_app()
    app.config_from_object(config(), namespace="CELERY")
    app.conf.update(dynprio_windw=7)
    with pytest.raises(SettingError, match=r"dynprio_windw = 7: no such setting; did you mean dynprio_window\?"):
        Settings.from_app(app)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("queues", "celery, mails,celery", ("celery", "mails")),
        ("interval", "1.0", 1.0),
        ("interval", "500ms", 0.5),
        ("trace_ttl", "2d", 172_800.0),
        ("window", "5000", 5000),
        ("hysteresis", "0.25", 0.25),
        ("hysteresis", "1", 1.0),
        ("embedded", "false", False),
        ("embedded", "0", False),
        ("events", "True", True),
        ("events", "on", True),
        ("metrics_port", "9808", 9808),
        ("metrics_port", "", None),
        ("log_format", "none", None),
        ("log_format", "json", "json"),
        ("metrics_host", "0.0.0.0", "0.0.0.0"),  # noqa: S104 - only read
        ("objectives", "", ()),
    ],
)
def test_texts_of_the_environment(name: str, text: str, value: Any) -> None:
    app = make_app()
    app.conf.update({f"dynprio_{name}": text})
    assert getattr(Settings.from_app(app), name) == value


def test_a_timedelta_is_a_number_of_seconds() -> None:
    app = make_app()
    app.conf.update(dynprio_half_life=timedelta(hours=1))
    assert Settings.from_app(app).half_life == 3600.0


def test_a_module_that_is_its_own_config_may_import_the_decorator() -> None:
    app = make_app()
    app.config_from_object(config(dynprio_task=print, dynprio=object(), dynprio_window=7))
    assert Settings.from_app(app).window == 7


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dynprio_windw", "dynprio_windw = 1: no such setting; did you mean dynprio_window?"),
        ("CELERY_DYNPRIO_WINDW", "CELERY_DYNPRIO_WINDW = 1: no such setting; did you mean CELERY_DYNPRIO_WINDOW?"),
        ("dynprio_zzz", "dynprio_zzz = 1: no such setting; use one of budget, embedded, events, half_life"),
    ],
)
def test_an_unknown_setting_is_named(name: str, message: str) -> None:
    app = make_app()
    app.conf.update({name: 1})
    with pytest.raises(SettingError) as caught:
        Settings.from_app(app)
    assert str(caught.value).startswith(message)


WRONG: list[tuple[str, Any]] = [
    *(("queues", value) for value in ([], [1], [""], None, "", "a,,b")),
    *(
        (name, value)
        for name in ("interval", "budget", "lease_ttl", "half_life", "trace_ttl")
        for value in (0, -1, "soon", True, "")
    ),
    *(("interval", value) for value in (math.inf, math.nan)),
    *(("hysteresis", value) for value in (-0.1, 1.1, math.nan, "2", "nan", True)),
    *(
        (name, value)
        for name in ("window", "trace_max_spans", "trace_total_spans", "record_size", "record_files")
        for value in (0, 1.0, True, "9.0", "0", "many")
    ),
    *(
        (name, value)
        for name in ("embedded", "inherit", "strict", "learn", "trace", "events")
        for value in (1, "maybe", None)
    ),
    *(("log_format", value) for value in ("xml", "JSON", True)),
    *(("record", value) for value in ("recording", "recording.gz", 5, True)),
    *(("record_secret", value) for value in (5, True)),
    *(("metrics_port", value) for value in (0, -1, 65_536, "0", "http", 9808.0, True)),
    *(("metrics_host", value) for value in (None, "", 1)),
    *(("objectives", value) for value in (3, Objective("a", "b", 1), ["a"], [Objective("a", "b", 1)] * 2, "[{")),
    ("objectives", {"a": 1}),
    ("objectives", [{"name": "a", "match": "b"}]),
    ("objectives", "no.such:objectives"),
    *(("policy", value) for value in (None, 3, "no.such:policy", "celery_dynprio.settings:PREFIX", Weight, "{")),
    ("policy", {}),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_value_is_named_with_its_setting(name: str, value: Any) -> None:
    app = make_app()
    app.conf.update({f"dynprio_{name}": value})
    with pytest.raises(SettingError) as caught:
        Settings.from_app(app)
    assert str(caught.value).startswith(f"dynprio_{name} = {value!r}: ")
    assert caught.value.value is value


def test_every_setting_is_checked() -> None:
    assert {name for name, _ in WRONG} == {setting.name for setting in fields(Settings)}


def test_a_policy_may_be_a_factor_or_a_place_to_import_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "proj_policies", config(mine=MINE))
    for value, expected in ((MINE, MINE), ("proj_policies:mine", MINE)):
        app = make_app()
        app.conf.update(dynprio_policy=value)
        assert Settings.from_app(app).policy is expected
    app = make_app()
    app.conf.update(dynprio_policy=Weight())
    assert repr(Settings.from_app(app).policy) == "1 * Weight()"
