"""``dynprio pause`` and ``dynprio resume``: the kill switch."""

from __future__ import annotations

import click
from celery.bin.base import CeleryCommand

from celery_dynprio.cli.session import operating, why_option


@click.command(cls=CeleryCommand)
@why_option
@click.pass_context
def pause(ctx: click.Context, *, why: str) -> None:
    """Stop all reprioritizers on this broker from moving tasks.

    Workers go on and take tasks in the order they are in. `resume` ends the pause.
    """
    with operating(ctx.obj.app) as operations:
        operations.pause(why)
    ctx.obj.echo("Paused: the reprioritizers move nothing from their next tick on, until `dynprio resume`.")


@click.command(cls=CeleryCommand)
@why_option
@click.pass_context
def resume(ctx: click.Context, *, why: str) -> None:
    """Let the reprioritizers move tasks again after `pause` or `drain`."""
    with operating(ctx.obj.app) as operations:
        operations.resume(why)
    ctx.obj.echo("Resumed: the reprioritizers move tasks again from their next tick on.")
