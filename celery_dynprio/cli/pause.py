"""``dynprio pause`` and ``dynprio resume``: the kill switch."""

from __future__ import annotations

import click
from celery.bin.base import CeleryCommand

from celery_dynprio.cli.session import connected, settings_of


@click.command(cls=CeleryCommand)
@click.pass_context
def pause(ctx: click.Context) -> None:
    """Stop all moves of all reprioritizers on this broker.

    Workers go on and take what waits in its last order. `resume` ends it.
    """
    from celery_dynprio.operations import Operations  # noqa: PLC0415 - see the package

    settings = settings_of(ctx.obj.app)
    with connected(ctx.obj.app) as client:
        Operations(client, settings.queues, settings.policy).pause()
    ctx.obj.echo("Paused: from their next tick on, the reprioritizers move nothing until `dynprio resume`.")


@click.command(cls=CeleryCommand)
@click.pass_context
def resume(ctx: click.Context) -> None:
    """Let the reprioritizers move again after `pause` or `drain`."""
    from celery_dynprio.operations import Operations  # noqa: PLC0415 - see the package

    settings = settings_of(ctx.obj.app)
    with connected(ctx.obj.app) as client:
        Operations(client, settings.queues, settings.policy).resume()
    ctx.obj.echo("Resumed: the reprioritizers move again from their next tick on.")
