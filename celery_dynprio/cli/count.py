"""``dynprio count``: how many messages wait, for people and for what scales workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import click
from celery.bin.base import CeleryCommand

from celery_dynprio.cli.rendering import Column, print_json, table, terminal_width
from celery_dynprio.cli.session import connected, json_option, settings_of
from celery_dynprio.models import CANCELLED, HELD, OVERFLOW, Place, is_level, place_name

_COLUMNS: Final = (Column("queue", least=12), Column("place"), Column("messages", right=True))

#: By queue, the messages in each place.
Counts = Mapping[str, Mapping[Place, int]]


@click.command(cls=CeleryCommand)
@json_option
@click.pass_context
def count(ctx: click.Context, *, as_json: bool) -> None:
    """Count what waits in each queue and place.

    One round trip to the broker, however much waits, and no question to the workers. `waiting` is what is to run:
    all levels and what is parked, but not what an operator holds.

    For example:

    \b
    $ celery -A proj dynprio count
    $ celery -A proj dynprio count --json
    """  # noqa: D301 - Click looks for the character, not for what a raw string has
    settings = settings_of(ctx.obj.app)
    with connected(ctx.obj.app) as broker:
        found = broker.counts(settings.queues)
    if as_json:
        print_json(counts_object(found))
        return
    for line in count_lines(found, terminal_width()):
        ctx.obj.echo(line)


def count_lines(counts: Counts, width: int | None) -> Iterator[str]:
    """The lines that are shown; ``width`` is that of the terminal."""
    rows = [
        [queue, place_name(place), f"{number:,}"]
        for queue, places in counts.items()
        for place, number in places.items()
        if number and place != CANCELLED
    ]
    if rows:
        yield from table(_COLUMNS, rows, width)
    waits = sum(_waiting(places) for places in counts.values())
    yield f"{waits:,} waiting" if waits else "No tasks are waiting."


def counts_object(counts: Counts) -> dict[str, Any]:
    """What ``--json`` prints."""
    return {
        "waiting": sum(_waiting(places) for places in counts.values()),
        "queues": [
            {
                "queue": queue,
                "waiting": _waiting(places),
                "levels": [number for place, number in places.items() if is_level(place)],
                "parked": places[OVERFLOW],
                "held": places[HELD],
            }
            for queue, places in counts.items()
        ],
    }


def _waiting(places: Mapping[Place, int]) -> int:
    return sum(number for place, number in places.items() if is_level(place) or place == OVERFLOW)
