"""``dynprio policy``: the policy in force, and another one tried on what really waits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import click
from celery.bin.base import CeleryCommand, CeleryOption

from celery_dynprio.cli.rendering import Column, print_json, summed, table, terminal_width
from celery_dynprio.cli.session import WrongUsage, json_option, operating, settings_of

if TYPE_CHECKING:
    from celery_dynprio.ordering import Shift
    from celery_dynprio.policies import Policy
    from celery_dynprio.views import Comparison

_FACTORS: Final = (Column("factor", least=12), Column("weight", right=True), Column("share", right=True))
_SHIFTS: Final = (
    Column("now", right=True),
    Column("then", right=True),
    Column("score", right=True),
    Column("then", right=True),
    Column("key", least=6),
    Column("task", least=12, keep_end=True),
    Column("id", least=8),
)


@click.command(cls=CeleryCommand)
@click.option(
    "--try",
    "tried",
    metavar="MODULE:POLICY",
    cls=CeleryOption,
    help_group="Policy Options",
    help="Score what is pending with this policy too, and show whose turn would change. Nothing is moved.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    cls=CeleryOption,
    help_group="Output Options",
    help="Show so many tasks that gain, and that lose.",
)
@json_option
@click.pass_context
def policy(ctx: click.Context, *, tried: str | None, limit: int, as_json: bool) -> None:
    """Show the policy in force, or try another one.

    For example:

    \b
    $ celery -A proj dynprio policy
    $ celery -A proj dynprio policy --try proj.policies:weekend
    """  # noqa: D301 - Click looks for the character, not for what a raw string has
    ours = settings_of(ctx.obj.app).policy
    if tried is None:
        if as_json:
            print_json({"policy": policy_object(ours)})
        else:
            for line in draw(ours, terminal_width()):
                ctx.obj.echo(line)
        return
    other = _imported(tried)
    with operating(ctx.obj.app) as operations:
        found = operations.compare(other)
    if as_json:
        print_json(
            {"policy": policy_object(ours), "tried": policy_object(other), "queues": list(map(as_object, found))}
        )
        return
    for comparison in found:
        for line in draw_comparison(comparison, limit, terminal_width()):
            ctx.obj.echo(line)


def policy_object(shown: Policy) -> list[dict[str, Any]]:
    """A policy for programs."""
    total = sum(weight for weight, _ in shown.terms)
    return [
        {"factor": factor.name, "is": repr(factor), "weight": weight, "share": weight / total}
        for weight, factor in shown.terms
    ]


def draw(shown: Policy, width: int | None) -> Iterator[str]:
    """The lines of the policy in force; ``width`` is that of the terminal."""
    rows = [[each["is"], f"{each['weight']:g}", f"{each['share']:.0%}"] for each in policy_object(shown)]
    yield from table(_FACTORS, rows, width)


def as_object(comparison: Comparison) -> dict[str, Any]:
    """One queue for programs: each task that a policy orders, those that gain most first."""
    return {
        "queue": comparison.queue,
        "tasks": [
            {
                "id": each.task.id,
                "task": each.task.name,
                "key": each.task.key,
                "position": each.before,
                "then": each.after,
                "score": each.score_before,
                "score_then": each.score_after,
            }
            for each in comparison.shifts
        ],
    }


def draw_comparison(comparison: Comparison, limit: int, width: int | None) -> Iterator[str]:
    """The lines that show what another policy would change in one queue."""
    shifts = comparison.shifts
    sooner = [each for each in shifts if each.after < each.before]
    later = [each for each in reversed(shifts) if each.after > each.before]
    yield (
        f"{comparison.queue}: {len(sooner):,} would run sooner, {len(later):,} later, "
        f"{len(shifts) - len(sooner) - len(later):,} as they are"
    )
    for title, chosen in (("sooner", sooner[:limit]), ("later", later[:limit])):
        if chosen:
            yield ""
            yield f"{title} by the most places:"
            yield from table(_SHIFTS, [_row(each) for each in chosen], width)
    if sooner:
        yield ""
        yield f"{sooner[0].task.name} would overtake {summed(_overtaken(sooner[0], shifts))}"


def _overtaken(riser: Shift, shifts: Sequence[Shift]) -> dict[str, int]:
    """By task name, how many are ahead of this one now and would not be then."""
    passed = [each for each in shifts if each.before < riser.before and each.after > riser.after]
    return dict(Counter(each.task.name for each in passed).most_common(5))


def _row(each: Shift) -> list[str]:
    return [
        str(each.before),
        str(each.after),
        f"{each.score_before:.3f}",
        f"{each.score_after:.3f}",
        "-" if each.task.key is None else each.task.key,
        each.task.name,
        each.task.id,
    ]


def _imported(place: str) -> Policy:
    from celery_dynprio.errors import SettingError  # noqa: PLC0415 - see the package
    from celery_dynprio.settings import Settings  # noqa: PLC0415

    try:
        return Settings(policy=place).policy  # type: ignore[arg-type]  # which reads it
    except SettingError as exc:
        raise WrongUsage(f"--try {place}: {exc.allowed}") from exc
