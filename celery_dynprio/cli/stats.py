"""``dynprio stats``: figures of the managed queues."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import click
from celery.bin.base import CeleryCommand

from celery_dynprio.cli.rendering import Column, counted, print_json, seconds, summed, table, terminal_width
from celery_dynprio.cli.session import json_option, operating

if TYPE_CHECKING:
    from celery_dynprio.views import QueueStats, Stats

#: How many task names and fairness keys are shown.
MOST: Final = 10

_LEVELS: Final = (Column("level"), Column("tasks", right=True), Column("oldest wait, s", right=True))


@click.command(cls=CeleryCommand)
@json_option
@click.pass_context
def stats(ctx: click.Context, *, as_json: bool) -> None:
    """Show figures of the managed queues.

    What waits in each level and for how long, who leads, which workers are up, and what was learned.

    For example:

    \b
    $ celery -A proj dynprio stats
    $ celery -A proj dynprio stats --json
    """  # noqa: D301 - Click looks for the character, not for what a raw string has
    with operating(ctx.obj.app) as operations:
        found = operations.stats()
    if as_json:
        print_json(as_object(found))
        return
    for line in draw(found, terminal_width()):
        ctx.obj.echo(line)


def as_object(found: Stats) -> dict[str, Any]:
    """What ``--json`` prints."""
    return {
        **asdict(found),
        "workers": {
            name: {"slots": slots, "queues": sorted(found.workers.queues.get(name, ()))}
            for name, slots in found.workers.slots.items()
        },
    }


def draw(found: Stats, width: int | None) -> Iterator[str]:
    """The lines that are shown; ``width`` is that of the terminal."""
    for queue in found.queues:
        yield from _queue(queue, found, width)
        yield ""
    for title, values in (("runtime of", found.runtimes), ("use of", found.use)):
        if values:
            columns = (Column(title, least=12), Column("s", right=True))
            yield from table(columns, _most(values), width)
            yield ""
    yield "Moves are paused: `dynprio resume` ends it." if found.paused else "Moves are on."


def _queue(queue: QueueStats, found: Stats, width: int | None) -> Iterator[str]:
    leader = "nobody leads" if queue.leader is None else f"led by {queue.leader.owner} ({queue.leader.kind})"
    workers = sum(queue.queue in queues for queues in found.workers.queues.values())
    slots = found.workers.slots_for(queue.queue)
    yield f"{queue.queue}: {leader}; {counted(workers, 'worker')} with {counted(slots, 'slot')}"
    parked = f"{queue.overflow:,} parked, {queue.held:,} held"
    foreign = f", left alone {summed(queue.foreign)}" if queue.foreign else ""
    yield f"{sum(queue.depths):,} in the front, {parked}; {counted(queue.moves, 'move')} so far{foreign}"
    rows = [
        [f"P{level}", f"{depth:,}", seconds(oldest)]
        for level, (depth, oldest) in enumerate(zip(queue.depths, queue.oldest, strict=True))
    ]
    yield from table(_LEVELS, rows, width)


def _most(values: Mapping[str, float]) -> list[list[str]]:
    shown = sorted(values.items(), key=lambda each: (-each[1], each[0]))[:MOST]
    return [[name or "(no key)", f"{value:.3f}"] for name, value in shown]
