"""``dynprio stats``: the figures of all managed queues."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import tzinfo
from typing import TYPE_CHECKING, Any, Final

import click
from celery.bin.base import CeleryCommand

from celery_dynprio.cli.rendering import (
    NO_KEY,
    Column,
    counted,
    print_json,
    seconds,
    seconds_with_unit,
    summed,
    table,
    terminal_width,
)
from celery_dynprio.cli.session import json_option, operating
from celery_dynprio.models import place_name
from celery_dynprio.objectives import Standing, globs
from celery_dynprio.operators.moments import moment
from celery_dynprio.operators.plain import standing_object
from celery_dynprio.untrusted import clean

if TYPE_CHECKING:
    from celery_dynprio.operators.results import QueueStats, Stats
    from celery_dynprio.ports.stores import Entry

#: Names and keys that are shown of what was learned.
MOST_LEARNED: Final = 10

_PLACES: Final = (Column("place"), Column("tasks", right=True), Column("oldest", right=True))
_WORKERS: Final = (Column("worker", least=12), Column("slots", right=True), Column("queues", least=12))
_RUNTIMES: Final = (Column("task", least=12, keep_end=True), Column("mean runtime", right=True))
_USE: Final = (Column("key", least=12), Column("use", right=True), Column("share", right=True))


_OBJECTIVES: Final = (
    Column("objective", least=12),
    Column("in time", right=True),
    Column("target", right=True),
    Column("within", right=True),
    Column("started", right=True),
    Column("overdue", right=True),
    Column("state"),
)


@click.command(cls=CeleryCommand)
@json_option
@click.pass_context
def stats(ctx: click.Context, *, as_json: bool) -> None:
    """Show figures for queues, workers and learned runtimes.

    Shows how many tasks wait in each level and the longest wait there, the leader, the slots of the workers, how the
    objectives stand, mean runtimes by task name, and decayed use by key, the largest first. Times are in seconds.

    For example:

    \b
    $ celery -A proj dynprio stats
    $ celery -A proj dynprio stats --json
    """  # noqa: D301 - Click looks for the character, not for what a raw string has
    with operating(ctx.obj.app) as operations:
        found = operations.stats()
    if as_json:
        print_json(stats_object(found))
        return
    for line in stats_lines(found, terminal_width(), ctx.obj.app.timezone):
        ctx.obj.echo(line)


def stats_lines(found: Stats, width: int | None, zone: tzinfo | None = None) -> Iterator[str]:
    """The lines that are shown; ``width`` is that of the terminal, ``zone`` of the times."""
    if found.paused:
        yield _paused(found.pause, zone)
        yield ""
    for queue in found.queues:
        yield from _queue(queue, width)
        yield ""
    slots = found.workers.slots
    yield f"{counted(len(slots), 'worker')} with {counted(sum(slots.values()), 'slot')}"
    if slots:
        rows = [
            [name, str(count), ", ".join(sorted(found.workers.queues.get(name, ())))] for name, count in slots.items()
        ]
        yield from table(_WORKERS, rows, width)
    if found.objectives:
        yield ""
        yield from table(_OBJECTIVES, [_objective(each, found.at) for each in found.objectives], width)
    runtimes, use = _most(found.runtimes), _most(found.use)
    if runtimes:
        yield ""
        yield from table(_RUNTIMES, [[name, f"{value:.3f}"] for name, value in runtimes.items()], width)
    if use:
        yield ""
        total = sum(found.use.values()) or 1.0
        rows = [[name or NO_KEY, seconds(value), f"{value / total:.0%}"] for name, value in use.items()]
        yield from table(_USE, rows, width)


def _paused(entry: Entry | None, zone: tzinfo | None) -> str:
    line = "Paused"
    if entry is not None:
        why = f" ({entry.why})" if entry.why else ""
        by = f"by {entry.by}" if entry.op == "pause" else f"by the {entry.op} of {entry.by}"
        line = f"Paused {by} since {moment(entry.at, zone)}{why}"
    return f"{line}: nothing is moved until `dynprio resume`."


def stats_object(found: Stats) -> dict[str, Any]:
    """What ``--json`` prints."""
    return {
        "at": found.at,
        "paused": found.paused,
        "pause": None if found.pause is None else _pause_object(found.pause),
        "queues": [_queue_object(queue) for queue in found.queues],
        "workers": {
            name: {"slots": count, "queues": sorted(found.workers.queues.get(name, ()))}
            for name, count in found.workers.slots.items()
        },
        "objectives": [standing_object(each) for each in found.objectives],
        "runtimes": _most(found.runtimes),
        "use": _most(found.use),
    }


def _pause_object(entry: Entry) -> dict[str, Any]:
    return {"since": entry.at, "by": entry.by, "op": entry.op, "why": entry.why}


def _queue(queue: QueueStats, width: int | None) -> Iterator[str]:
    leader = (
        "nobody leads" if queue.leader is None else f"led by {clean(queue.leader.owner)} ({clean(queue.leader.kind)})"
    )
    front, moves = counted(sum(queue.depths), "message"), counted(queue.moves, "move")
    yield f"{queue.queue}: {front} in the front, {moves} made, {leader}"
    rows = [
        [place_name(level), f"{depth:,}", seconds(queue.oldest[level])]
        for level, depth in enumerate(queue.depths)
        if depth
    ]
    rows += [[name, f"{count:,}", "-"] for name, count in (("parked", queue.overflow), ("held", queue.held)) if count]
    if rows:
        yield from table(_PLACES, rows, width)
    if queue.foreign:
        yield f"left alone: {summed(queue.foreign)}"


def _queue_object(queue: QueueStats) -> dict[str, Any]:
    return {
        "queue": queue.queue,
        "levels": [
            {"level": level, "messages": depth, "oldest": queue.oldest[level]}
            for level, depth in enumerate(queue.depths)
        ],
        "parked": queue.overflow,
        "held": queue.held,
        "left_alone": dict(queue.foreign),
        "moves": queue.moves,
        "leader": None if queue.leader is None else asdict(queue.leader),
    }


def _objective(standing: Standing, now: float) -> list[str]:
    objective = standing.objective
    state = "met" if standing.since is None else f"breached for {seconds_with_unit(now - standing.since)}"
    if standing.since is not None and objective.on_breach is not None:
        state += f", holding back {', '.join(globs(objective.expendable))}"
    return [
        objective.name,
        "-" if standing.attained is None else f"{standing.attained:.1%}",
        f"{objective.target:.1%}",
        seconds(objective.within),
        f"{standing.started:,}",
        f"{standing.overdue:,}",
        state,
    ]


def _most(learned: Mapping[str, float]) -> dict[str, float]:
    ranked = sorted(learned.items(), key=lambda item: (-item[1], item[0]))
    return dict(ranked[:MOST_LEARNED])
