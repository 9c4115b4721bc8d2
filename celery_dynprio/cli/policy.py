"""``dynprio policy``: what decides on the order, and who would start when under another policy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import click
from celery.bin.base import CeleryCommand, CeleryOption

from celery_dynprio.cli.outlook import outlook_lines, outlook_with_paths
from celery_dynprio.cli.rendering import Column, counted, print_json, table, terminal_width
from celery_dynprio.cli.session import WrongUsage, json_option, operating, settings_of

if TYPE_CHECKING:
    from celery_dynprio.engine.ordering import Shift
    from celery_dynprio.lab.outlook import Outlook, Play
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
    help="With --try, show this many at most of each kind; 0 for all.",
)
@click.option(
    "--tasks",
    type=click.IntRange(min=1),
    default=500,
    show_default=True,
    cls=CeleryOption,
    help_group="Policy Options",
    help="With --try, play this many tasks at most; a thousand take about eight seconds.",
)
@json_option
@click.pass_context
def policy(ctx: click.Context, *, place: str | None, limit: int, tasks: int, as_json: bool) -> None:
    """Show the policy, or who would start when under another one.

    With --try, what waits now is played forward under both policies, on the workers that are up and with run times as
    learned. Where nobody knows when anything starts, because no worker answers or nothing was learned yet, it shows
    which tasks would overtake which.

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
    _try(ctx, settings, imported_policy(settings, "--try", place), tasks, limit or None, as_json=as_json)


def _try(
    ctx: click.Context, settings: Settings, other: Policy, tasks: int, limit: int | None, *, as_json: bool
) -> None:
    from celery_dynprio.assembly import production  # noqa: PLC0415 - see the package
    from celery_dynprio.lab.outlook import Play  # noqa: PLC0415

    with operating(ctx.obj.app) as operations:
        found = operations.compare(other)
    play = Play(production(ctx.obj.app, settings), settings.interval, tasks)
    tried = [Tried.of(each, settings.policy, other, play) for each in found]
    if as_json:
        both = {"policy": policy_object(settings.policy), "other": policy_object(other)}
        print_json({**both, "queues": [tried_object(each, limit) for each in tried]})
        return
    for each in tried:
        for line in tried_lines(each, limit, terminal_width()):
            ctx.obj.echo(line)


@dataclass(frozen=True, slots=True)
class Tried:
    """What another policy would change in one queue; without an outlook, ``problem`` says why there is none."""

    comparison: Comparison
    outlook: Outlook | None
    problem: str = ""

    @classmethod
    def of(cls, comparison: Comparison, own: Policy, other: Policy, play: Play) -> Tried:
        """Play it forward."""
        from celery_dynprio.errors import DynPrioError  # noqa: PLC0415 - see the package
        from celery_dynprio.lab.outlook import outlook  # noqa: PLC0415

        try:
            return cls(comparison, outlook(comparison.scene, own, other, play))
        except DynPrioError as exc:
            return cls(comparison, None, str(exc))


def tried_lines(found: Tried, limit: int | None, width: int | None) -> Iterator[str]:
    """The lines that show what another policy would change: who starts when, or else who overtakes whom."""
    if found.outlook is None:
        yield from comparison_lines(found.comparison, limit, width)
        yield ""
        yield f"Not played forward: {found.problem}."
        return
    yield comparison_line(found.comparison)
    yield from outlook_lines(found.outlook, limit, width)


def tried_object(found: Tried, limit: int | None) -> dict[str, Any]:
    """What another policy would change in one queue, for programs."""
    played = None if found.outlook is None else outlook_with_paths(found.outlook, limit)
    return {**comparison_object(found.comparison, limit), "outlook": played, "problem": found.problem or None}


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


def comparison_line(found: Comparison) -> str:
    """A comparison in one line."""
    up, down, stay = _parted(found.shifts)
    total = counted(len(found.shifts), "task")
    return f"{found.queue}: of {total}, {len(up):,} would move up, {len(down):,} down, {stay:,} would stay"


def comparison_lines(found: Comparison, limit: int | None, width: int | None) -> Iterator[str]:
    """The lines that show a comparison; at most ``limit`` tasks that rise and as many that fall, None for all."""
    up, down, _ = _parted(found.shifts)
    yield comparison_line(found)
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
