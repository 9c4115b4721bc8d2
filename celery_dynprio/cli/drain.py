"""``dynprio drain``: back to what plain Celery sees."""

from __future__ import annotations

import click
from celery.bin.base import CeleryCommand, CeleryOption

from celery_dynprio.cli.session import operating, why_option


@click.command(cls=CeleryCommand)
@click.option(
    "--held",
    is_flag=True,
    cls=CeleryOption,
    help_group="Drain Options",
    help="Also bring back held tasks.",
)
@why_option
@click.pass_context
def drain(ctx: click.Context, *, held: bool, why: str) -> None:
    """Bring all parked tasks back to the front, best first.

    After it everything that is pending is an ordinary message in an ordinary queue, which workers without the add-on
    run too. The reprioritizers are paused first, so that they park nothing again.

    For example:

    \b
    $ celery -A proj dynprio drain
    $ celery -A proj dynprio drain --held
    """  # noqa: D301 - Click looks for the character, not for what a raw string has
    with operating(ctx.obj.app) as operations:
        results = operations.drain(held=held, why=why)
    for drained in results:
        stays = f", {drained.held:,} still held (--held brings them back)" if drained.held else ""
        merged = f", {drained.merged} put where plain Celery looks" if drained.merged else ""
        ctx.obj.echo(f"{drained.queue}: {drained.returned} brought back{merged}{stays}")
    ctx.obj.echo("The reprioritizers are paused; `dynprio resume` lets them move tasks again.")
