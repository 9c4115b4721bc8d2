"""``dynprio policy``: what decides on the order, and what another policy would change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import click
from celery.bin.base import CeleryCommand, CeleryOption

from celery_dynprio.cli.rendering import Column, counted, print_json, table, terminal_width
from celery_dynprio.cli.session import WrongUsage, json_option, operating, settings_of

if TYPE_CHECKING:
    from celery_dynprio.engine.ordering import Shift
    from celery_dynprio.operators.results import Comparison
    from celery_dynprio.policies import Policy
    from celery_dynprio.settings import Settings

_TERMS: Final = (Column("weight", right=True), Column("share", right=True), Column("factor", least=12))
_SHIFTS: Final = (
    Column("from", right=True),
    Column("to", right=True),
    Column("score", right=True),
    Column("then", right=True),
    Column("key", least=6),
    Column("task", least=12, keep_end=True),
    Column("id", least=8),
)
_OVERTAKEN: Final = (
    Column("overtaken", least=12, keep_end=True),
    Column("tasks", right=True),
    Column("by", right=True),
    Column("at most", right=True),
)


@click.command(cls=CeleryCommand)
@click.option(
    "--try",
    "place",
    metavar="MODULE:POLICY",
    cls=CeleryOption,
    help_group="Policy Options",
    help="Compare with this policy, and move nothing.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    cls=CeleryOption,
    help_group="Output Options",
    help="With --try, show this many at most that would rise, fall or be overtaken; 0 for all.",
)
@json_option
@click.pass_context
def policy(ctx: click.Context, *, place: str | None, limit: int, as_json: bool) -> None:
    """Show the policy, or what another one would change.

    With --try, everything that waits now is scored by both policies, to show which tasks would overtake which. Pinned
    tasks are left out, as no policy moves them.

    For example:

    \b
    $ celery -A proj dynprio policy
    $ celery -A proj dynprio policy --try proj.policies:deadlines_first
    """  # noqa: D301 - Click looks for the character, not for what a raw string has
    settings = settings_of(ctx.obj.app)
    if place is None:
        if as_json:
            print_json(policy_object(settings.policy))
        else:
            for line in policy_lines(settings.policy, terminal_width()):
                ctx.obj.echo(line)
        return
    other = imported_policy(settings, "--try", place)
    with operating(ctx.obj.app) as operations:
        found = operations.compare(other)
    if as_json:
        print_json(
            {
                "policy": policy_object(settings.policy),
                "other": policy_object(other),
                "queues": [comparison_object(each, limit or None) for each in found],
            }
        )
        return
    for comparison in found:
        for line in comparison_lines(comparison, limit or None, terminal_width()):
            ctx.obj.echo(line)


def imported_policy(settings: Settings, option: str, place: str) -> Policy:
    """The policy at "module:attribute", as the option of a command names it."""
    from celery_dynprio.errors import SettingError  # noqa: PLC0415

    try:
        return replace(settings, policy=place).policy  # type: ignore[arg-type]
    except SettingError as exc:
        raise WrongUsage(f"{option} {place!r}: {exc.allowed}") from exc


def policy_lines(policy: Policy, width: int | None) -> Iterator[str]:
    """The lines that show a policy; ``width`` is that of the terminal."""
    rows = [[f"{weight:g}", f"{share:.0%}", repr(factor)] for weight, share, factor in _terms(policy)]
    yield from table(_TERMS, rows, width)


def policy_object(policy: Policy) -> dict[str, Any]:
    """A policy for programs."""
    return {
        "policy": repr(policy),
        "factors": [
            {"factor": factor.name, "repr": repr(factor), "weight": weight, "share": share}
            for weight, share, factor in _terms(policy)
        ],
    }


def _terms(policy: Policy) -> list[tuple[float, float, Any]]:
    total = sum(weight for weight, _ in policy.terms)
    return [(weight, weight / total, factor) for weight, factor in policy.terms]


def comparison_lines(found: Comparison, limit: int | None, width: int | None) -> Iterator[str]:
    """The lines that show a comparison; at most ``limit`` tasks that rise and as many that fall, None for all."""
    up, down, stay = _parted(found.shifts)
    total = counted(len(found.shifts), "task")
    yield f"{found.queue}: of {total}, {len(up):,} would move up, {len(down):,} down, {stay:,} would stay"
    for title, shifts in (("rise most", up), ("fall most", down)):
        if shifts:
            yield ""
            yield f"would {title}:"
            yield from table(_SHIFTS, [_row(shift) for shift in shifts[:limit]], width)
    if down:
        yield ""
        rows = [
            [name, f"{count:,}", f"{places / count:,.1f} places", f"{most:,}"]
            for name, count, places, most in _overtaken(down)[:limit]
        ]
        yield from table(_OVERTAKEN, rows, width)


def comparison_object(found: Comparison, limit: int | None) -> dict[str, Any]:
    """A comparison for programs."""
    up, down, stay = _parted(found.shifts)
    return {
        "queue": found.queue,
        "up": len(up),
        "down": len(down),
        "stay": stay,
        "rise": [_object(shift) for shift in up[:limit]],
        "fall": [_object(shift) for shift in down[:limit]],
        "overtaken": [
            {"task": name, "tasks": count, "mean_places": places / count, "most_places": most}
            for name, count, places, most in _overtaken(down)[:limit]
        ],
    }


def _parted(shifts: Sequence[Shift]) -> tuple[list[Shift], list[Shift], int]:
    """Those that rise and those that fall, each the farthest first, and how many stay."""
    up = [shift for shift in shifts if shift.after < shift.before]
    down = [shift for shift in reversed(shifts) if shift.after > shift.before]
    return up, down, len(shifts) - len(up) - len(down)


def _overtaken(down: Sequence[Shift]) -> list[tuple[str, int, int, int]]:
    """For each name of a task how many fall, how many places in all, and how many at most; the most tasks first."""
    counts = Counter(shift.task.name for shift in down)
    places: Counter[str] = Counter()
    most: dict[str, int] = {}
    for shift in down:
        places[shift.task.name] += shift.after - shift.before
        most[shift.task.name] = max(most.get(shift.task.name, 0), shift.after - shift.before)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [(name, count, places[name], most[name]) for name, count in ranked]


def _row(shift: Shift) -> list[str]:
    task, key = shift.task, shift.task.key
    scores = [f"{score:.3f}" for score in (shift.score_before, shift.score_after)]
    return [f"{shift.before:,}", f"{shift.after:,}", *scores, "-" if key is None else key, task.name, task.id]


def _object(shift: Shift) -> dict[str, Any]:
    return {
        "id": shift.task.id,
        "task": shift.task.name,
        "key": shift.task.key,
        "from": shift.before,
        "to": shift.after,
        "score": shift.score_before,
        "score_then": shift.score_after,
    }
