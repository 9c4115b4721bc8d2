"""What the commands that change pending tasks share: which tasks, the question before, and the results after."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click
from celery.bin.base import CeleryOption

from celery_dynprio.cli.filters import filter_options, make_filter, pop_fields
from celery_dynprio.cli.rendering import counted, missed_line, print_json
from celery_dynprio.cli.session import WrongUsage, json_option, operating, why_option
from celery_dynprio.message import MAX_ID
from celery_dynprio.untrusted import clean

if TYPE_CHECKING:
    from celery_dynprio.operators.operations import Operations
    from celery_dynprio.operators.sightings import Selection
    from celery_dynprio.operators.steering import Result

_DONE: Final = "done"


@dataclass(frozen=True, slots=True)
class Request:
    """Which tasks a command is about, by ids or a filter, and its other options."""

    ids: tuple[str, ...]
    #: Fields of a :class:`~celery_dynprio.operators.selection.Filter`.
    fields: Mapping[str, Any]
    limit: int | None
    yes: bool
    as_json: bool
    why: str


def steering_options(**spelled: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add what all such commands take; ``spelled`` as in :func:`~celery_dynprio.cli.filters.filter_options`."""

    def add(function: Callable[..., None]) -> Callable[..., None]:
        limit = click.option(
            "--limit",
            type=click.IntRange(min=1),
            cls=CeleryOption,
            help_group="Filter Options",
            help="Take at most this many of the matching tasks, those that run next.",
        )
        yes = click.option(
            "--yes",
            is_flag=True,
            cls=CeleryOption,
            help_group="Filter Options",
            help="Do not ask for confirmation.",
        )
        for option in (json_option, why_option, yes, limit, filter_options(**spelled)):
            function = option(function)
        return click.argument("ids", nargs=-1, metavar="[ID]...")(function)

    return add


def pop_request(options: dict[str, Any]) -> Request:
    """Take what :func:`steering_options` added to a command from its options."""
    fields = pop_fields(options)
    return Request(fields=fields, **{name: options.pop(name) for name in ("ids", "limit", "yes", "as_json", "why")})


def steer(
    ctx: click.Context,
    verb: str,
    request: Request,
    act: Callable[[Operations, Selection, str], Sequence[Result]],
    *,
    held: bool | None = None,
) -> None:
    """Act on the tasks of the request, and print the results; exits with 1 unless all was done.

    ``held`` says which of the tasks that match a filter can be meant: those that are held, those that are not, or all.
    """
    from celery_dynprio.operators.sightings import Selection  # noqa: PLC0415 - see the package

    if bool(request.ids) is bool(request.fields):
        problem = "ids or a filter, not both" if request.ids else "ids, or a filter such as --task"
        raise WrongUsage(f"Which tasks to {verb}? Give {problem}.")
    if request.ids and request.limit is not None:
        raise WrongUsage("--limit goes with a filter, not with ids.")
    condition = make_filter({"held": held, **request.fields})
    with operating(ctx.obj.app) as operations:
        if request.ids:
            selection = Selection.of([operations.whole_id(each) for each in request.ids])
        else:
            selection = operations.select(condition, request.limit)
            _confirm(verb, len(selection.ids), selection.matching, request)
        results = act(operations, selection, request.why) if selection.ids else []
    missed = selection.missed if request.limit is None else 0
    if request.as_json:
        print_json({**results_object(verb, results), "missed_at_most": missed})
    else:
        for line in result_lines(results, ctx.obj.style):
            ctx.obj.echo(line)
        if missed:
            ctx.obj.echo(missed_line(missed))
    if any(result.answer.value != _DONE for result in results):
        ctx.exit(1)


def result_lines(results: Sequence[Result], style: Any) -> Iterator[str]:
    """The lines that are shown; ``style`` is ``click.style`` or like it."""
    if not results:
        yield "No pending tasks match."
    for result in results:
        answer = result.answer.value
        name = f" {clean(result.name)}" if result.name else ""
        detail = f" ({clean(result.detail)})" if result.detail else ""
        yield f"{clean(result.id, MAX_ID)}{name}: {style(answer, fg='green' if answer == _DONE else 'yellow')}{detail}"
    if len(results) > 1:
        counts = Counter(result.answer.value for result in results)
        yield f"{counted(len(results), 'task')}: {', '.join(f'{count:,} {answer}' for answer, count in counts.items())}"


def results_object(verb: str, results: Sequence[Result]) -> dict[str, Any]:
    """What ``--json`` prints."""
    return {
        "operation": verb,
        "done": sum(result.answer.value == _DONE for result in results),
        "results": [
            {
                "id": result.id,
                "task": result.name,
                "queue": result.queue,
                "answer": result.answer.value,
                "detail": result.detail,
            }
            for result in results
        ],
    }


def _confirm(verb: str, count: int, matching: int, request: Request) -> None:
    """Ask whether all that match are meant; ends the command if not."""
    if not count or request.yes:
        return
    many = counted(count, "task") if count == matching else f"the first {count:,} of {counted(matching, 'task')}"
    if not sys.stdin.isatty():
        raise WrongUsage(f"{verb} {many}? Not a terminal: add --yes. Nothing was done.")
    if not click.confirm(f"{verb} {many}?", err=True):
        raise click.ClickException("Nothing was done.")
