"""``dynprio list``: what waits, in the order in which it is expected to run."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import click
from celery.bin.base import CeleryCommand, CeleryOption

from celery_dynprio.cli.filters import filter_options, make_filter, pop_fields
from celery_dynprio.cli.rendering import Column, counted, missed_line, print_json, seconds, table, terminal_width
from celery_dynprio.cli.session import json_option, operating
from celery_dynprio.models import place_name
from celery_dynprio.operators.abbreviations import shortest
from celery_dynprio.operators.plain import turn_object, until

if TYPE_CHECKING:
    from celery_dynprio.engine.ordering import Turn
    from celery_dynprio.operators.results import Listing

_COLUMNS: Final = (
    Column("#", right=True),
    Column("place"),
    Column("score", right=True, optional=True),
    Column("waited", right=True),
    Column("deadline", right=True, optional=True),
    Column("key", least=6),
    Column("start", right=True, optional=True),
    Column("task", least=12, keep_end=True),
    Column("id", least=8),
)
_QUEUE: Final = Column("queue", least=6)


@click.command(name="list", cls=CeleryCommand)
@filter_options()
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
def list_(ctx: click.Context, /, *, limit: int, as_json: bool, **options: Any) -> None:
    """List pending tasks, next to run first.

    Times are in seconds: how long each task has waited, until its deadline (negative once that has passed), and until
    its expected start. Held tasks come last, without a number.

    For example:

    \b
    $ celery -A proj dynprio list
    $ celery -A proj dynprio list --task "shop.*" --key megacorp --older 60
    $ celery -A proj dynprio list --held --limit 0
    """  # noqa: D301 - Click looks for the character, not for what a raw string has
    fields = pop_fields(options)
    wanted = make_filter(fields)
    now = time.time()
    with operating(ctx.obj.app) as operations:
        page = operations.pending(wanted, limit or None)
    if as_json:
        print_json(listing_object(page, now))
        return
    for line in listing_lines(page, now, terminal_width(), filtered=bool(fields)):
        ctx.obj.echo(line)


def listing_lines(page: Listing, now: float, width: int | None, *, filtered: bool = False) -> Iterator[str]:
    """The lines that are shown; ``now`` is Unix seconds, ``width`` that of the terminal."""
    if page.turns:
        yield from _rows(page, now, width)
    else:
        nothing = "No pending tasks match." if filtered else "No tasks are waiting."
        yield f"0 of {page.matching:,} shown" if page.matching else nothing
    if page.missed:
        yield missed_line(page.missed)
    if page.delivered:
        yield f"Workers have {page.delivered:,} more: running, reserved, or scheduled. `explain ID` tells which."


def _rows(page: Listing, now: float, width: int | None) -> Iterator[str]:
    several = len({turn.queue for turn in page.turns}) > 1
    ids = [turn.task.id for turn in page.turns]
    yield from table(
        titles(several=several, ids=ids), [row_of(turn, now, several=several) for turn in page.turns], width
    )
    if len(page.turns) < page.matching:
        yield f"{len(page.turns):,} of {page.matching:,} shown"
    else:
        yield counted(page.matching, "task")


def listing_object(page: Listing, now: float) -> dict[str, Any]:
    """What ``--json`` prints."""
    return {
        "at": now,
        "shown": len(page.turns),
        "matching": page.matching,
        "missed_at_most": page.missed,
        "with_workers": page.delivered,
        "tasks": [turn_object(turn, now) for turn in page.turns],
    }


def titles(*, several: bool, ids: Collection[str] = ()) -> tuple[Column, ...]:
    """The columns of a list of pending tasks, of ``several`` queues or of one.

    Of each id so much is shown, however narrow the terminal, that it differs from the others of these ``ids``.
    """
    *columns, task, task_id = _COLUMNS
    task_id = replace(task_id, least=shortest(ids) + len("…"))
    return (*columns, *([_QUEUE] if several else []), task, task_id)


def row_of(turn: Turn, now: float, *, several: bool) -> list[str]:
    """The row of one task below :func:`titles`."""
    task = turn.task
    return [
        "" if turn.position is None else str(turn.position),
        place_name(turn.place),
        f"{turn.score:.3f}",
        seconds(turn.waited),
        seconds(None if task.deadline is None else task.deadline - now),
        "-" if task.key is None else task.key,
        seconds(until(turn.expected, now)),
        *([turn.queue] if several else []),
        task.name,
        task.id,
    ]
