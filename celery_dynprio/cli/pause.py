"""``dynprio pause`` and ``dynprio resume``: the kill switch."""

from __future__ import annotations

import click
from celery.bin.base import CeleryCommand

from celery_dynprio.cli.session import operating, why_option


@click.command(cls=CeleryCommand)
@why_option
@click.pass_context
def pause(ctx: click.Context, *, why: str) -> None:
    """Stop all moves of all reprioritizers on this broker.

    Workers go on and take what waits in its last order. `resume` ends it.
    """
    with operating(ctx.obj.app) as operations:
        operations.pause(why)
    ctx.obj.echo("Paused: from their next tick on, the reprioritizers move nothing until `dynprio resume`.")


@click.command(cls=CeleryCommand)
@why_option
@click.pass_context
def resume(ctx: click.Context, *, why: str) -> None:
    """Let the reprioritizers move again after `pause` or `drain`."""
    with operating(ctx.obj.app) as operations:
        operations.resume(why)
    ctx.obj.echo("Resumed: the reprioritizers move again from their next tick on.")
