"""``dynprio bump``, ``hold``, ``release`` and ``cancel``: an operator's hand on pending tasks."""

from __future__ import annotations

from typing import Any

import click
from celery.bin.base import CeleryCommand

from celery_dynprio.cli.steering import asked, steer, steering_options


@click.command(cls=CeleryCommand)
@steering_options()
@click.pass_context
def bump(ctx: click.Context, /, **options: Any) -> None:
    """Make pending tasks the next to run, in this order.

    They go before all others in level 0, and no tick moves them from there. A held task stays held, and goes first
    once it is released.

    For example:

    \b
    $ celery -A proj dynprio bump 5f2a0c4e-7d2b-4b57-9a53-6d3f0f4f9d11
    $ celery -A proj dynprio bump --key "tenant 7" --limit 10 --why "they called"
    """  # noqa: D301 - Click looks for the character, not for what a raw string has
    steer(ctx, "bump", asked(options), lambda operations, ids, why: operations.bump(ids, why))


@click.command(cls=CeleryCommand)
@steering_options()
@click.pass_context
def hold(ctx: click.Context, /, **options: Any) -> None:
    """Keep pending tasks from running until they are released.

    They stay held through restarts of workers, reprioritizers and of a broker that keeps its data. A filter means
    tasks that are not held yet.

    For example:

    \b
    $ celery -A proj dynprio hold 5f2a0c4e-7d2b-4b57-9a53-6d3f0f4f9d11
    $ celery -A proj dynprio hold --task "bank.*" --yes --why "the bank is down"
    """  # noqa: D301 - Click looks for the character, not for what a raw string has
    steer(ctx, "hold", asked(options), lambda operations, ids, why: operations.hold(ids, why), held=False)


@click.command(cls=CeleryCommand)
@steering_options()
@click.pass_context
def release(ctx: click.Context, /, **options: Any) -> None:
    """Let held tasks run again.

    They come back to where they belong by their score, or to the level that they are pinned to. A filter means held
    tasks only.

    For example:

    \b
    $ celery -A proj dynprio release 5f2a0c4e-7d2b-4b57-9a53-6d3f0f4f9d11
    $ celery -A proj dynprio release --held --yes
    """  # noqa: D301 - Click looks for the character, not for what a raw string has
    steer(ctx, "release", asked(options), lambda operations, ids, why: operations.release(ids, why), held=True)


@click.command(cls=CeleryCommand)
@steering_options()
@click.pass_context
def cancel(ctx: click.Context, /, **options: Any) -> None:
    """Remove pending tasks from the broker for good.

    Their results become REVOKED, and what waits for them fails, as if a worker had found them revoked; no worker needs
    to be up.

    For example:

    \b
    $ celery -A proj dynprio cancel 5f2a0c4e-7d2b-4b57-9a53-6d3f0f4f9d11
    $ celery -A proj dynprio cancel --trace 0af7651916cd43dd8448eb211c80319c --why "the order was withdrawn"
    """  # noqa: D301 - Click looks for the character, not for what a raw string has
    steer(ctx, "cancel", asked(options), lambda operations, ids, why: operations.cancel(ids, why))
