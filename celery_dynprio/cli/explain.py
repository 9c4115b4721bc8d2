"""``dynprio explain``: why a task is where it is, as Slurm's ``sprio -l`` and more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import tzinfo
from itertools import islice
from typing import TYPE_CHECKING, Final

import click
from celery.bin.base import CeleryCommand

from celery_dynprio.cli.rendering import (
    Column,
    counted,
    print_json,
    seconds_with_unit,
    summed,
    table,
    terminal_width,
)
from celery_dynprio.cli.session import json_option, operating
from celery_dynprio.models import is_level, place_name
from celery_dynprio.operators.moments import moment
from celery_dynprio.operators.plain import explanation_object, until

if TYPE_CHECKING:
    from celery_dynprio.operators.results import Explanation
    from celery_dynprio.policies.fair_share import Account

_FACTORS: Final = (
    Column("factor", least=12),
    Column("value", right=True),
    Column("weight", right=True),
    Column("adds", right=True),
)
_AHEAD: Final = (
    Column("ahead"),
    Column("score", right=True),
    Column("why", least=12),
    Column("task", least=12, keep_end=True),
    Column("id", least=8),
)
_MOVES: Final = (Column("moved"), Column("from"), Column("to"), Column("score", right=True), Column("why", least=12))
_OPERATIONS: Final = (
    Column("operator"),
    Column("by", least=8),
    Column("did"),
    Column("answer"),
    Column("why", least=12),
)


@click.command(cls=CeleryCommand)
@click.argument("task_id", metavar="ID")
@json_option
@click.pass_context
def explain(ctx: click.Context, *, task_id: str, as_json: bool) -> None:
    """Explain why a pending task is where it is.

    Shows what each factor adds to its score, which tasks are ahead and why, its last moves, what operators did to it,
    and when it is expected to start. The ID may be abbreviated.

    For example:

    \b
    $ celery -A proj dynprio explain 5f2a0c4e-7d2b-4b57-9a53-6d3f0f4f9d11
    $ celery -A proj dynprio explain --json 5f2a0c4e-7d2b-4b57-9a53-6d3f0f4f9d11
    """  # noqa: D301 - Click looks for the character, not for what a raw string has
    now = time.time()
    with operating(ctx.obj.app) as operations:
        found = operations.explain(operations.whole_id(task_id))
    if as_json:
        print_json(explanation_object(found, now))
        return
    for line in explanation_lines(found, now, terminal_width(), ctx.obj.app.timezone):
        ctx.obj.echo(line)


def explanation_lines(found: Explanation, now: float, width: int | None, zone: tzinfo | None = None) -> Iterator[str]:
    """The lines that are shown; ``now`` is Unix seconds, ``width`` that of the terminal, ``zone`` of the times."""
    yield from islice(table((Column(""), Column("")), list(_head(found, now)), width), 1, None)  # without titles
    blocks = _factors(found, width), _ahead(found, width), _moves(found, width, zone), _operations(found, width, zone)
    for block in blocks:
        lines = list(block)
        if lines:
            yield ""
            yield from lines


def _head(found: Explanation, now: float) -> Iterator[tuple[str, str]]:
    turn, task = found.turn, found.turn.task
    yield "task", task.name
    yield "id", task.id
    if found.messages > 1:
        yield "messages", f"{found.messages:,} with this id; commands act on all of them"
    yield "queue", turn.queue
    pinned = "" if task.pinned is None else f", pinned to P{task.pinned}"
    position = "" if turn.position is None else f", number {turn.position:,}"
    yield "place", f"{place_name(turn.place)}{position}{pinned}"
    if found.held_back_for:
        yield "held back", f"by objective {found.held_back_for}, which is breached"
    yield "waited", seconds_with_unit(turn.waited)
    yield "deadline", "none" if task.deadline is None else _in(task.deadline - now)
    yield "key", "none" if task.key is None else task.key
    if found.fair_share is not None:
        yield "fair share", _account(found.fair_share)
    if turn.position is None:
        yield "start", "when it is released"
    elif found.held_back_for:
        yield "start", "when the objective recovers, or after hold_at_most"
    else:
        yield "start", _start(found, now)
        if not is_level(turn.place):
            front = until(found.in_front, now)
            yield "in front", "unknown" if front is None else _in(front)
    yield "trace", found.trace_id or "none"


def _account(account: Account) -> str:
    used, running, ahead = map(seconds_with_unit, account[:3])
    return f"used {used}, runs {running}, {ahead} before it; share {account.share:.4g}"


def _start(found: Explanation, now: float) -> str:
    """When it starts: the median, and between which moments with a probability of 80 %."""
    if found.start is None:
        return "unknown: no worker answers, or no runtime has been learned"
    low, median, high = (max(at - now, 0.0) for at in found.start)
    return f"in {seconds_with_unit(median)}; 80 %: in {low:,.1f} to {seconds_with_unit(high)}"


def _factors(found: Explanation, width: int | None) -> Iterator[str]:
    rows = [
        [each.factor, f"{each.value:.3f}", f"{each.weight:g}", f"{each.contribution:.3f}"]
        for each in found.contributions
    ]
    if rows:
        yield from table(_FACTORS, [*rows, ["score", "", "", f"{found.turn.score:.3f}"]], width)
    elif found.turn.task.pinned is not None:
        yield f"No policy moves it: it is pinned to P{found.turn.task.pinned}."
    else:
        yield "The policy failed to score it."


def _ahead(found: Explanation, width: int | None) -> Iterator[str]:
    if found.turn.position is None:
        return
    total = sum(found.ahead_by_place.values())
    if not total:
        yield "Nothing is ahead of it."
        return
    places = summed({place_name(place): count for place, count in found.ahead_by_place.items()})
    yield f"{counted(total, 'task')} {'is' if total == 1 else 'are'} ahead ({places}); the nearest of them:"
    rows = [
        [place_name(each.place), f"{each.score:.3f}", each.reason, each.task.name, each.task.id] for each in found.ahead
    ]
    yield from table(_AHEAD, rows, width)


def _moves(found: Explanation, width: int | None, zone: tzinfo | None) -> Iterator[str]:
    rows = [
        [moment(move.at, zone), place_name(move.source), place_name(move.target), f"{move.score:.3f}", move.reason]
        for move in found.moves
    ]
    if rows:
        yield from table(_MOVES, rows, width)


def _operations(found: Explanation, width: int | None, zone: tzinfo | None) -> Iterator[str]:
    rows = [[moment(each.at, zone), each.by, each.op, each.answer, each.why] for each in found.operations]
    if rows:
        yield from table(_OPERATIONS, rows, width)


def _in(value: float) -> str:
    return f"in {seconds_with_unit(value)}" if value >= 0 else f"{seconds_with_unit(-value)} ago"
