"""Which pending tasks a command is about: the options that `list` shares with all that steers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import click
from celery.bin.base import CeleryOption

from celery_dynprio.cli.session import duration, one_line_errors

if TYPE_CHECKING:
    from celery_dynprio.operators.selection import Filter

GROUP: Final = "Filter Options"

#: The fields of a Filter in the order of the help, and the option for each.
_FILTERS: Final[Mapping[str, tuple[tuple[str, ...], dict[str, Any]]]] = {
    "task": (("--task",), {"metavar": "GLOB", "help": "Only tasks whose names match, with *, ? and [...]."}),
    "key": (("--key",), {"metavar": "TEXT", "help": "Only tasks with this fairness key."}),
    "level": (("--level",), {"type": int, "metavar": "N", "help": "Only tasks in this level (0 runs first)."}),
    "trace": (("--trace",), {"metavar": "TRACE_ID", "help": "Only tasks of this trace (32 hexadecimal digits)."}),
    "older": (
        ("--older",),
        {"type": duration(), "metavar": "SECONDS", "help": "Only tasks that have waited at least this long."},
    ),
    "queue": (("-Q", "--queue"), {"metavar": "QUEUE", "help": "Only tasks in this managed queue."}),
    "held": (("--held",), {"is_flag": True, "help": "Only held tasks."}),
}


def filter_options(**spelled: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the options to a command, whose function gets each as ``filter_<name>``.

    ``spelled`` gives another spelling to some, where a command has an option of that name that means something else.
    """

    def add(function: Callable[..., None]) -> Callable[..., None]:
        for name, (spelling, how) in reversed(list(_FILTERS.items())):
            names = (spelled[name],) if name in spelled else spelling
            function = click.option(*names, f"filter_{name}", cls=CeleryOption, help_group=GROUP, **how)(function)
        return function

    return add


def pop_fields(options: dict[str, Any]) -> dict[str, Any]:
    """Remove these options from a command's; return those that were given, by the names of a Filter's fields."""
    found = {name: options.pop(f"filter_{name}") for name in _FILTERS}
    return {name: value for name, value in found.items() if value is not None and value is not False}


def make_filter(given: Mapping[str, Any]) -> Filter:
    """Return the filter. A value that is not allowed is a usage error of the command."""
    from celery_dynprio.operators.selection import Filter  # noqa: PLC0415 - see the package

    with one_line_errors():
        return Filter(**given)
