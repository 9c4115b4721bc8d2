"""``dynprio log``: what operators did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import tzinfo
from typing import TYPE_CHECKING, Final

import click
from celery.bin.base import CeleryCommand, CeleryOption

from celery_dynprio.cli.rendering import Column, print_json, table, terminal_width
from celery_dynprio.cli.session import json_option, operating
from celery_dynprio.operators.moments import moment

if TYPE_CHECKING:
    from celery_dynprio.ports.stores import Entry

_COLUMNS: Final = (
    Column("time"),
    Column("by", least=8),
    Column("did"),
    Column("answer"),
    Column("queue", least=6),
    Column("task", least=12, keep_end=True),
    Column("id", least=8),
    Column("why", least=12),
)


@click.command(cls=CeleryCommand)
@click.option(
    "--id",
    "task_id",
    metavar="ID",
    cls=CeleryOption,
    help_group="Filter Options",
    help="Only what was done to this task.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    cls=CeleryOption,
    help_group="Output Options",
    help="Show at most this many; 0 shows all.",
)
@json_option
@click.pass_context
def log(ctx: click.Context, *, task_id: str | None, limit: int, as_json: bool) -> None:
    """Show what operators did, newest first.

    The last 10,000 entries or so are kept: who did what to which task, how it ended, and why. Entries about all tasks,
    such as `pause`, name no task.

    For example:

    \b
    $ celery -A proj dynprio log
    $ celery -A proj dynprio log --id 5f2a0c4e-7d2b-4b57-9a53-6d3f0f4f9d11 --limit 0
    """  # noqa: D301 - Click looks for the character, not for what a raw string has
    with operating(ctx.obj.app) as operations:
        entries = operations.log(limit or None, None if task_id is None else operations.logged_id(task_id))
    if as_json:
        print_json({"entries": [asdict(entry) for entry in entries]})
        return
    for line in log_lines(entries, terminal_width(), ctx.obj.app.timezone):
        ctx.obj.echo(line)


def log_lines(entries: Sequence[Entry], width: int | None, zone: tzinfo | None = None) -> Iterator[str]:
    """The lines that are shown; ``width`` is that of the terminal, ``zone`` of the times."""
    if not entries:
        yield "No operator actions recorded."
        return
    rows = [_row(each, zone) for each in entries]
    yield from table(_COLUMNS, rows, width)


def _row(entry: Entry, zone: tzinfo | None) -> list[str]:
    about = [each or "-" for each in (entry.queue, entry.task, entry.id)]
    return [moment(entry.at, zone), entry.by, entry.op, entry.answer, *about, entry.why]
