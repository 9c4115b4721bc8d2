"""``dynprio reprioritize``: other weights, deadlines, keys and levels for pending tasks."""

from __future__ import annotations

from typing import Any, Final

import click
from celery.bin.base import CeleryCommand, CeleryOption

from celery_dynprio.cli.session import DURATION, WrongUsage
from celery_dynprio.cli.steering import pop_request, steer, steering_options
from celery_dynprio.durations import seconds

_GROUP: Final = "Change Options"

#: The words that take a value away.
_NOTHING: Final = {"deadline": "none", "key": "none", "level": "auto"}


@click.command(cls=CeleryCommand)
@click.option(
    "--weight",
    type=float,
    metavar="NUMBER",
    cls=CeleryOption,
    help_group=_GROUP,
    help="Business importance, 0 to 10.",
)
@click.option(
    "--deadline",
    metavar="SECONDS|none",
    cls=CeleryOption,
    help_group=_GROUP,
    help="Seconds from now by which they should start, such as 90, 5m or 1h30m.",
)
@click.option("--key", metavar="TEXT|none", cls=CeleryOption, help_group=_GROUP, help="Fairness key.")
@click.option(
    "--level",
    metavar="N|auto",
    cls=CeleryOption,
    help_group=_GROUP,
    help="Pin to this level (0 runs first); auto lets the policy decide.",
)
@steering_options(key="--from-key", level="--from-level")
@click.pass_context
def reprioritize(ctx: click.Context, /, **options: Any) -> None:
    """Change weight, deadline, key or level of pending tasks.

    A level takes effect at once, everything else with the next tick. No later tick undoes what you set.

    For example:

    \b
    $ celery -A proj dynprio reprioritize --weight 9 --deadline 60 5f2a0c4e-7d2b-4b57-9a53-6d3f0f4f9d11
    $ celery -A proj dynprio reprioritize --level 9 --task "*.reindex" --why "not before the evening"
    $ celery -A proj dynprio reprioritize --key none --from-key "tenant 7"
    """  # noqa: D301 - Click looks for the character, not for what a raw string has
    changes = _changes({name: options.pop(name) for name in ("weight", "deadline", "key", "level")})
    if not changes:
        raise WrongUsage("Nothing to change: give --weight, --deadline, --key or --level.")
    steer(
        ctx,
        "reprioritize",
        pop_request(options),
        lambda operations, tasks, why: operations.reprioritize(tasks, changes, why),
    )


def _changes(given: dict[str, Any]) -> dict[str, object]:
    """The changes as the operations take them: None for what is taken away."""
    changes: dict[str, object] = {}
    for name, value in given.items():
        if value is None:
            continue
        changes[name] = None if value == _NOTHING.get(name) else _read(name, value)
    return changes


def _read(name: str, value: Any) -> object:
    if name == "deadline":
        found = seconds(value)
        if found is None:
            raise WrongUsage(f"--deadline {value!r}: use {DURATION}, or none")
        return found
    if name != "level":
        return value
    try:
        return int(value)
    except ValueError:
        raise WrongUsage(f"--level {value!r}: use the number of a level or auto") from None
