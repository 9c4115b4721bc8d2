"""The command line: what it says, and how it fails."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence

import click
import pytest
from celery import Celery
from celery.app.log import Logging
from celery.bin.base import CLIContext
from celery.signals import import_modules
from click.testing import CliRunner, Result

from celery_dynprio import DynPrio
from celery_dynprio.cli import dynprio
from celery_dynprio.cli.run import _parent, _stop_without_parent
from tests.processes import wait_until

COMMANDS = (
    "bump",
    "cancel",
    "count",
    "doctor",
    "drain",
    "explain",
    "hold",
    "list",
    "log",
    "pause",
    "policy",
    "record",
    "release",
    "replay",
    "reprioritize",
    "resume",
    "run",
    "share",
    "stats",
    "top",
    "trace",
    "tune",
)

#: What a command cannot do without.
ARGUMENTS = {
    "explain": ["some-id"],
    "share": ["list"],
    "replay": [__file__],
    "trace": ["some-id"],
    "tune": [__file__],
    **{name: ["some-id"] for name in ("bump", "cancel", "hold", "release")},
    "reprioritize": ["some-id", "--weight", "1"],
}
#: Those that Celery sets up: the root, and its own.
LOGGERS = ("", "celery", "celery.task", "celery.redirected")
NOBODY = "redis://127.0.0.1:1/0"


def make_app(broker: str = NOBODY, **conf: object) -> Celery:
    app = Celery("cli", broker=broker, set_as_current=False)
    app.conf.update(**conf)
    return app


@pytest.fixture(autouse=True)
def process_as_before() -> Iterator[None]:
    """What a command that runs in this process sets for good, as it was: loggers, signal handlers, the environment."""
    loggers = [(each, each.level, list(each.handlers), each.propagate) for each in map(logging.getLogger, LOGGERS)]
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    environment, set_up = set(os.environ), Logging._setup
    yield
    for each, level, its_handlers, propagate in loggers:
        each.setLevel(level)
        each.handlers, each.propagate = its_handlers, propagate
    for number, handler in handlers.items():
        signal.signal(number, handler)
    for name in set(os.environ) - environment:
        del os.environ[name]
    Logging._setup = set_up
    logging.captureWarnings(capture=False)


def invoke(app: Celery, args: Sequence[str]) -> Result:
    return CliRunner().invoke(dynprio, args, obj=CLIContext(app=app, no_color=True, workdir=None))


def test_the_group_has_these_commands() -> None:
    assert tuple(sorted(dynprio.commands)) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_that_needs_no_broker(command: str) -> None:
    result = invoke(make_app(), [command, "--help"])
    assert result.exit_code == 0
    summary = result.output.split("\n\n")[1].strip()
    assert summary.endswith("."), "the first paragraph is a sentence"
    assert "\b" not in result.output
    assert "--embedded" not in result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_an_app_without_the_addon_is_told_the_two_lines(command: str) -> None:
    result = invoke(make_app(), [command, *ARGUMENTS.get(command, ())])
    assert result.exit_code == 1
    assert "from celery_dynprio import DynPrio\n    dynprio = DynPrio(app)" in result.output
    assert "Traceback" not in result.output


def test_an_app_is_looked_into_once_its_modules_are_imported() -> None:
    app = make_app()
    imported: list[object] = []

    def import_late(**_: object) -> None:
        imported.append(DynPrio(app))  # as a module in app.conf.imports, or Django's AppConfig.ready

    import_modules.connect(import_late, sender=app, weak=False)
    assert invoke(app, ["list", "--help"]).exit_code == 0
    assert imported == []
    for _ in range(2):
        assert invoke(app, ["policy"]).exit_code == 0
    assert imported == [DynPrio.of(app)]


@pytest.mark.parametrize("args", [["pause"], ["resume"], ["drain"], ["run", "--once"], ["trace", "x"]])
def test_a_broker_that_is_away_is_one_line(args: list[str]) -> None:
    app = make_app()
    DynPrio(app)
    result = invoke(app, args)
    assert result.exit_code == 1
    (line,) = result.output.strip().splitlines()
    assert line.startswith("Error: broker redis://")


def test_a_broker_that_is_no_redis_is_one_line() -> None:
    app = make_app("memory://")
    DynPrio(app)
    result = invoke(app, ["pause"])
    assert result.exit_code == 1
    assert "managed queues need Redis" in result.output


def test_wrong_settings_are_one_line() -> None:
    app = make_app(dynprio_interval=-1)
    DynPrio(app)
    result = invoke(app, ["pause"])
    assert result.exit_code == 1
    assert "dynprio_interval = -1" in result.output
    assert "Traceback" not in result.output


def test_the_doctor_tells_of_a_broker_that_is_away() -> None:
    app = make_app()
    DynPrio(app)
    result = invoke(app, ["doctor"])
    assert result.exit_code == 1
    lines = result.output.strip().splitlines()
    assert lines[0].startswith("error   broker: broker redis://"), "errors come first"
    assert any(line.startswith("warning prefetch: ") for line in lines)


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["--queues", "orders,mails"], "mails, orders: not managed; dynprio_queues has celery"),
        (["--interval", "10ms"], "'10ms': use 0.05 seconds or more"),
        (["--interval", "soon"], "'soon': use seconds, such as 90, or 90s, 5m, 1h30m"),
        (["--loglevel", "loud"], "LOUD"),
        (["--embedded", "nonsense"], "'nonsense' is not <node name>:<pid>:<random>"),
    ],
)
def test_wrong_options_are_usage_errors(args: list[str], problem: str) -> None:
    app = make_app()
    DynPrio(app)
    result = invoke(app, ["run", *args])
    assert result.exit_code == 2
    assert problem in result.output


def test_the_owner_names_the_parent() -> None:
    assert _parent("celery@host:1234:ab12") == 1234
    with pytest.raises(click.BadParameter):
        _parent("celery@host:x:ab12")


def test_a_child_without_its_parent_stops() -> None:
    stop = threading.Event()
    _stop_without_parent(stop, os.getppid() + 1)
    wait_until(stop.is_set)


def test_celerys_own_commands_do_not_pay_for_ours() -> None:
    """Celery loads the group for each of its commands."""
    unwanted = {"redis", "celery_dynprio.engine.tick"}
    script = f"import sys, celery_dynprio.cli; print(sorted({unwanted} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
