"""``dynprio share``: shares of keys, set while everything runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import tzinfo
from typing import TYPE_CHECKING, Final

import click
from celery.bin.base import CeleryCommand, CeleryOption

from celery_dynprio.cli.rendering import NO_KEY, NOTHING, Column, print_json, table, terminal_width
from celery_dynprio.cli.session import duration, json_option, operating, why_option
from celery_dynprio.operators.moments import moment

if TYPE_CHECKING:
    from celery_dynprio.ports.stores import SetShare

_COLUMNS: Final = (Column("key", least=12), Column("share", right=True), Column("until"))


@click.group()
def share() -> None:
    """Set what share of the workers keys get.

    A share counts where the policy has a FairShare, and before those that the policy gives. Of two keys that always
    have tasks waiting, one with share 4 gets four times as much as one with share 1, which is that of any other key.
    "" is the key of tasks without one.

    For example:

    \b
    $ celery -A proj dynprio share set "tenant 7" 4 --for 2h --why "their launch"
    $ celery -A proj dynprio share list
    $ celery -A proj dynprio share remove "tenant 7"
    """  # noqa: D301 - Click looks for the character, not for what a raw string has


@share.command("set", cls=CeleryCommand)
@click.argument("key", metavar="KEY")
@click.argument("value", metavar="SHARE", type=float)
@click.option(
    "--for",
    "seconds",
    type=duration(),
    cls=CeleryOption,
    help_group="Share Options",
    help="For how long, as 90, 5m or 2h; until it is removed if this is left out.",
)
@why_option
@click.pass_context
def set_(ctx: click.Context, *, key: str, value: float, seconds: float | None, why: str) -> None:
    """Set the share of a key, a number above 0."""
    with operating(ctx.obj.app) as operations:
        found = operations.set_share(key, value, seconds, why)
    ctx.obj.echo(f"{found.key or NO_KEY}: share {found.share:g} {_until(found, ctx.obj.app.timezone)}")


@share.command("list", cls=CeleryCommand)
@json_option
@click.pass_context
def list_(ctx: click.Context, *, as_json: bool) -> None:
    """Show the shares that were set, not those of the policy."""
    with operating(ctx.obj.app) as operations:
        found = operations.shares()
    if as_json:
        print_json({"shares": [each._asdict() for each in found]})
        return
    for line in share_lines(found, terminal_width(), ctx.obj.app.timezone):
        ctx.obj.echo(line)


@share.command(cls=CeleryCommand)
@click.argument("key", metavar="KEY")
@why_option
@click.pass_context
def remove(ctx: click.Context, *, key: str, why: str) -> None:
    """Remove the share of a key: the policy's counts again."""
    with operating(ctx.obj.app) as operations:
        removed = operations.remove_share(key, why)
    if not removed:
        raise click.ClickException(f"no share is set for key {key!r}: `dynprio share list` shows all")
    ctx.obj.echo(f"{key or NO_KEY}: the policy's share counts again")


def share_lines(found: Sequence[SetShare], width: int | None, zone: tzinfo | None = None) -> Iterator[str]:
    """The lines that are shown; ``width`` is that of the terminal, ``zone`` of the times."""
    if not found:
        yield "No shares are set."
        return
    rows = [
        [each.key or NO_KEY, f"{each.share:g}", NOTHING if each.until is None else moment(each.until, zone)]
        for each in found
    ]
    yield from table(_COLUMNS, rows, width)


def _until(share: SetShare, zone: tzinfo | None) -> str:
    return "until it is removed" if share.until is None else f"until {moment(share.until, zone)}"
