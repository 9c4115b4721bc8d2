"""``dynprio bump``, ``hold``, ``release``, ``reprioritize`` and ``cancel``: by id, or by filter."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import click
from celery.bin.base import CeleryCommand, CeleryOption

from celery_dynprio.cli.filters import filter_options, made, taken
from celery_dynprio.cli.rendering import counted, print_json
from celery_dynprio.cli.session import WrongUsage, json_option, operating, why_option
from celery_dynprio.message import MAX_ID, clean

if TYPE_CHECKING:
    from celery_dynprio.operations import Operations, Result

#: Does it to tasks, and says what became of each.
Doing: TypeAlias = "Callable[[Operations, list[str], str], list[Result]]"

_GROUP: Final = "Which Options"

_STYLE: Final = {"done": "green", "not found": "red"}


def _command(function: Callable[..., None], **spelled: str) -> Callable[..., None]:
    """Add what all of these commands share."""
    for add in (
        click.argument("ids", metavar="[ID ...]", nargs=-1),
        filter_options(**spelled),
        click.option(
            "--limit",
            type=click.IntRange(min=1),
            cls=CeleryOption,
            help_group=_GROUP,
            help="Of the tasks that a filter means, only so many, those first that run next.",
        ),
        click.option("--yes", is_flag=True, cls=CeleryOption, help_group=_GROUP, help="Do not ask."),
        why_option,
        json_option,
        click.pass_context,
    )[::-1]:
        function = add(function)
    return function


@click.command(cls=CeleryCommand)
@_command
def bump(ctx: click.Context, **options: Any) -> None:
    """Make tasks the next to run, and pin them to P0.

    Of several the first runs first. A held task stays held, and goes first once it is released.

    For example:

    \b
    $ celery -A proj dynprio bump 5f2a0c4e-7d2b-4b57-9a53-6d3f0f4f9d11
    $ celery -A proj dynprio bump --key vip --limit 10 --why "they called"
    """  # noqa: D301 - Click looks for the character, not for what a raw string has
    _steer(ctx, "bump", lambda operations, ids, why: operations.bump(ids, why), **options)


@click.command(cls=CeleryCommand)
@_command
def hold(ctx: click.Context, **options: Any) -> None:
    """Keep tasks from being run until they are released.

    They wait in the broker, whatever restarts meanwhile.

    For example:

    \b
    $ celery -A proj dynprio hold 5f2a0c4e-7d2b-4b57-9a53-6d3f0f4f9d11
    $ celery -A proj dynprio hold --task "shop.pay*" --yes --why "the bank is down"
    """  # noqa: D301 - Click looks for the character, not for what a raw string has
    _steer(ctx, "hold", lambda operations, ids, why: operations.hold(ids, why), **options)


@click.command(cls=CeleryCommand)
@_command
def release(ctx: click.Context, **options: Any) -> None:
    """Bring held tasks back to where they belong by their score.

    For example:

    \b
    $ celery -A proj dynprio release 5f2a0c4e-7d2b-4b57-9a53-6d3f0f4f9d11
    $ celery -A proj dynprio release --held --task "shop.pay*" --yes
    """  # noqa: D301 - Click looks for the character, not for what a raw string has
    _steer(ctx, "release", lambda operations, ids, why: operations.release(ids, why), **options)


@click.command(cls=CeleryCommand)
@_command
def cancel(ctx: click.Context, **options: Any) -> None:
    """Remove tasks from the broker for good.

    Also with no worker up. Their results become REVOKED, and a chord that waits for one fails.

    For example:

    \b
    $ celery -A proj dynprio cancel 5f2a0c4e-7d2b-4b57-9a53-6d3f0f4f9d11
    $ celery -A proj dynprio cancel --key megacorp --task shop.report --older 3600
    """  # noqa: D301 - Click looks for the character, not for what a raw string has
    _steer(ctx, "cancel", lambda operations, ids, why: operations.cancel(ids, why), **options)


def _change(name: str, read: Callable[[str], Any], metavar: str, text: str) -> Callable[[Any], Any]:
    """An option for one change; what stands behind the last "|" of its ``metavar`` is read as "", which no value is."""
    nothing = metavar.partition("|")[2]

    def convert(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Any:
        if value is None or value == nothing:
            return value and ""
        try:
            return read(value)
        except ValueError:
            raise click.BadParameter(f"{value!r} is not {metavar}") from None

    return click.option(
        f"--{name}", name, callback=convert, metavar=metavar, cls=CeleryOption, help_group="Change Options", help=text
    )


@click.command(cls=CeleryCommand)
@_change("weight", float, "NUMBER", "Business importance, 0 to 10.")
@_change("deadline", float, "SECONDS|none", "From now on, by which it should have started.")
@_change("key", str, "TEXT|none", "The fairness key.")
@_change("level", int, "N|auto", "Pin it to a level, 0 the first; or let the policy decide.")
@lambda function: _command(function, key="--of-key", level="--in-level")
def reprioritize(ctx: click.Context, **options: Any) -> None:
    """Change weight, deadline, key or level of tasks.

    No tick undoes it. They move with the next tick; to a level at once.

    For example:

    \b
    $ celery -A proj dynprio reprioritize --weight 9 --deadline 60 5f2a0c4e-7d2b-4b57-9a53-6d3f0f4f9d11
    $ celery -A proj dynprio reprioritize --level 9 --of-key megacorp --yes
    """  # noqa: D301 - Click looks for the character, not for what a raw string has
    asked = {name: options.pop(name) for name in ("weight", "deadline", "key", "level")}
    changes = {name: None if value == "" else value for name, value in asked.items() if value is not None}
    if not changes:
        raise WrongUsage("what shall change? Give --weight, --deadline, --key or --level")
    _steer(ctx, "reprioritize", lambda operations, ids, why: operations.reprioritize(ids, changes, why), **options)


def _steer(
    ctx: click.Context,
    op: str,
    do: Doing,
    *,
    ids: Sequence[str],
    limit: int | None,
    yes: bool,
    why: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Do it to the tasks that were named or that the filter means; exits with 1 unless it was done to all."""
    given = taken(options)
    if bool(ids) == bool(given):
        raise WrongUsage(f"which tasks? Give ids, or a filter such as --task; see `dynprio {op} --help`")
    if ids and limit is not None:
        raise WrongUsage("--limit goes with a filter")
    with operating(ctx.obj.app) as operations:
        chosen = list(ids) if ids else _meant(operations, op, given, limit, yes=yes)
        results = do(operations, chosen, why)
    if as_json:
        print_json({"op": op, "results": [_object(result) for result in results]})
    else:
        _tell(ctx, results)
    if any(result.answer.value != "done" for result in results):
        ctx.exit(1)


def _meant(operations: Operations, op: str, given: Mapping[str, Any], limit: int | None, *, yes: bool) -> list[str]:
    """The ids of the tasks that the filter means, once that was confirmed."""
    from celery_dynprio.workers import Workers  # noqa: PLC0415 - see the package

    page = operations.pending(made(given), limit, Workers())
    ids = [turn.task.id for turn in page.turns]
    if not ids:
        raise click.ClickException("no pending task matches")
    if yes:
        return ids
    count = counted(page.matching, "pending task")
    if not sys.stdin.isatty():
        raise WrongUsage(f"{count} would be meant: say --yes, as nobody can be asked here")
    some = f"the first {len(ids):,} of them" if len(ids) < page.matching else "them"
    click.confirm(f"{count} {'matches' if page.matching == 1 else 'match'}. {op} {some}?", abort=True, err=True)
    return ids


def _object(result: Result) -> dict[str, str]:
    return {
        "id": result.id,
        "answer": result.answer.value,
        "task": result.name,
        "queue": result.queue,
        "detail": result.detail,
    }


def _tell(ctx: click.Context, results: Sequence[Result]) -> None:
    for result in results:
        name = f" {clean(result.name)}" if result.name else ""
        answer = ctx.obj.style(result.answer.value, fg=_STYLE.get(result.answer.value, "yellow"))
        detail = f" ({clean(result.detail)})" if result.detail else ""
        ctx.obj.echo(f"{clean(result.id, MAX_ID)}{name}: {answer}{detail}")
    if len(results) > 1:
        done = sum(result.answer.value == "done" for result in results)
        ctx.obj.echo(f"{done:,} of {len(results):,} done")
