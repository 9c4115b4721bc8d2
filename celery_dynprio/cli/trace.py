"""``dynprio trace``: what one request caused, as a tree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import click
from celery.bin.base import CeleryCommand

from celery_dynprio.cli.rendering import counted, print_json
from celery_dynprio.cli.session import json_option, operating, settings_of
from celery_dynprio.models import place_name
from celery_dynprio.tracing.tree import trace_object, walk

if TYPE_CHECKING:
    from celery_dynprio.settings import Settings
    from celery_dynprio.tracing.records import SpanRecord, Trace

#: Deeper than this nothing is indented any further.
MAX_INDENT: Final = 20

_COLOURS: Final = {"SUCCESS": "green", "STARTED": "cyan", "PENDING": "cyan", "UNKNOWN": "yellow"}


@click.command(cls=CeleryCommand)
@click.argument("trace_id", metavar="TRACE_ID|TASK_ID")
@json_option
@click.pass_context
def trace(ctx: click.Context, *, trace_id: str, as_json: bool) -> None:
    """Show all tasks of one request as a tree.

    Shows which task published which, where each ran, and how it ended. The ID may be abbreviated.

    For example:

    \b
    $ celery -A proj dynprio trace 0af7651916cd43dd8448eb211c80319c
    $ celery -A proj dynprio trace --json 5f2a0c4e-7d2b-4b57-9a53-6d3f0f4f9d11
    """  # noqa: D301 - Click looks for the character, not for what a raw string has
    settings = settings_of(ctx.obj.app)
    with operating(ctx.obj.app) as operations:
        found = operations.trace(trace_id) or operations.trace(operations.traced_id(trace_id))
    if found is None or not found.spans:
        raise click.ClickException(_unknown(trace_id, settings))
    if as_json:
        print_json(trace_object(found))
        return
    for line in trace_lines(found, ctx.obj.style):
        ctx.obj.echo(line)


def _unknown(trace_id: str, settings: Settings) -> str:
    if not settings.trace:
        return f"No trace of {trace_id[:200]!r} is kept: dynprio_trace is False."
    return (
        f"No trace of {trace_id[:200]!r} is kept. A task is known seconds after a worker has started it or another "
        f"task has published it, and forgotten {settings.trace_ttl:g} s after its trace last changed."
    )


def trace_lines(trace: Trace, style: Any) -> Iterator[str]:
    """The lines that are shown; ``style`` is ``click.style`` or like it."""
    spans = trace.complete()
    states = Counter(span.state for span in spans)
    hosts = {span.host for span in spans} - {""}
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    yield f"trace {trace.trace_id}: {counted(len(spans), 'run')} on {counted(len(hosts), 'worker')}, {counts}"
    for span, _, lasts in walk(spans):
        trunk = "".join("   " if last else "│  " for last in lasts[:-1][-MAX_INDENT:])
        branch = ("└─ " if lasts[-1] else "├─ ") if lasts else ""
        yield f"{style(f'{span.state:8}', fg=_COLOURS.get(span.state, 'red'))} {trunk}{branch}{_summary(span)}"
        margin = f"{'':9}{trunk}{('   ' if lasts[-1] else '│  ') if lasts else ''}   "
        for move in span.moves:
            after = "" if span.published is None else f"after {max(move.at - span.published, 0.0):.3f} s "
            places = f"from {place_name(move.source)} to {place_name(move.target)}"
            yield f"{margin}{after}{places}: {move.reason}, {move.score:.3f}"
        if span.error:
            yield f"{margin}{span.error}"
    if trace.dropped:
        yield f"{counted(trace.dropped, 'record')} more had no room: see dynprio_trace_max_spans"


def _summary(span: SpanRecord) -> str:
    summary = f"{span.task_name}[{span.task_id}]"
    if span.attempt > 1:
        summary += f" attempt {span.attempt}"
    if span.host:
        summary += f" on {span.host}"
    if span.queue:
        summary += f", queue {span.queue}"
    levels = [place_name(level) for level in (span.level_at_publish, span.level) if level is not None]
    if levels:
        summary += f", {' -> '.join(dict.fromkeys(levels))}"
    if span.wait is not None:
        summary += f", waited {span.wait:.3f} s"
    return summary if span.ran is None else f"{summary}, ran {span.ran:.3f} s"
