"""What all commands share: the app's DynPrio, its broker, and errors in one line."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from traceback import format_exc
from typing import TYPE_CHECKING, Any, Final

import click
from celery.bin.base import CeleryOption

from celery_dynprio.durations import seconds

if TYPE_CHECKING:
    from celery_dynprio.app import DynPrio
    from celery_dynprio.operators.operations import Operations
    from celery_dynprio.ports.broker import Broker
    from celery_dynprio.settings import Settings

NOT_INSTALLED: Final = """this app has no DynPrio. Add these two lines where it is created, or name the app with \
`celery -A proj dynprio ...`:

    from celery_dynprio import DynPrio
    dynprio = DynPrio(app)"""


#: What errors of options tell people to type.
DURATION: Final = "seconds, such as 90, or 90s, 5m, 1h30m"

#: For each operation: what the audit keeps as its reason.
why_option: Final = click.option(
    "--why", default="", cls=CeleryOption, help_group="Audit Options", help="The reason, for `dynprio log`."
)

#: For each command that programs read too.
json_option: Final = click.option(
    "--json", "as_json", is_flag=True, cls=CeleryOption, help_group="Output Options", help="Print one JSON object."
)


def duration(least: float = 0.0) -> Callable[[Any], float]:
    """The type of an option that is a length of time, at least so many seconds."""

    def read(value: Any) -> float:
        found = seconds(value)
        if found is None:
            raise click.BadParameter(f"{value!r}: use {DURATION}")
        if found < least:
            raise click.BadParameter(f"{value!r}: use {least:g} second{'' if least == 1 else 's'} or more")
        return found

    return read


class WrongUsage(click.ClickException):
    """Arguments that are understood, but cannot be meant: one line, where Click's own UsageError prints three."""

    exit_code = 2


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn what may go wrong into one line on stderr, and the exit code 1, or 2 for a value that is not allowed."""
    from celery_dynprio.assembly import broker_errors  # noqa: PLC0415 - see the package
    from celery_dynprio.errors import ArgumentError, DynPrioError  # noqa: PLC0415

    errors = broker_errors()
    try:
        yield
    except ArgumentError as exc:
        raise WrongUsage(str(exc)) from exc
    except DynPrioError as exc:
        raise click.ClickException(str(exc)) from exc
    except errors.any as exc:
        raise click.ClickException(str(errors.explain(exc))) from exc


def installed_in(app: Any) -> DynPrio:
    """The DynPrio in this app, whose modules are imported first, as a worker does.

    It is an error of the command if they cannot be, if there is no DynPrio, or if its settings are wrong.
    """
    from celery_dynprio.app import DynPrio  # noqa: PLC0415 - see the package

    _load(app)
    installed = DynPrio.of(app)
    if installed is None:
        raise click.ClickException(NOT_INSTALLED)
    with one_line_errors():
        _ = installed.settings
    return installed


def _load(app: Any) -> None:
    from celery_dynprio.errors import DynPrioError  # noqa: PLC0415 - see the package
    from celery_dynprio.hosting.loading import load_modules  # noqa: PLC0415

    try:
        load_modules(app)
    except DynPrioError as exc:
        raise click.ClickException(str(exc)) from exc
    except Exception as exc:
        problem = f"the app's modules cannot be imported; a worker would fail to start too:\n{format_exc()}"
        raise click.ClickException(problem) from exc


def settings_of(app: Any) -> Settings:
    """The settings of the DynPrio in this app; fails as :func:`installed_in`."""
    return installed_in(app).settings


@contextmanager
def operating(app: Any) -> Iterator[Operations]:
    """The operations on an app's pending tasks for the length of a command."""
    installed = installed_in(app)
    with one_line_errors(), installed.operations() as operations:
        yield operations


@contextmanager
def connected(app: Any) -> Iterator[Broker]:
    """A connection to the app's broker for the length of a command."""
    from celery_dynprio.assembly import connect  # noqa: PLC0415 - see the package

    with one_line_errors(), closing(connect(app)) as broker:
        yield broker


def stop_on_signals(stop: threading.Event) -> None:
    """Set ``stop`` at SIGTERM and SIGINT."""

    def receive(*_: object) -> None:
        # In a thread: the main thread may hold the event's lock at this very moment.
        threading.Thread(target=stop.set, name="dynprio-stop", daemon=True).start()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C does not wait for the batch

    signal.signal(signal.SIGTERM, receive)
    signal.signal(signal.SIGINT, receive)
