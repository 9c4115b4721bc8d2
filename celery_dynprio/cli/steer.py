"""``dynprio bump``, ``hold``, ``release`` and ``cancel``: an operator's hand on pending tasks."""

from __future__ import annotations

from typing import Any

import click
from celery.bin.base import CeleryCommand

from celery_dynprio.cli.steering import pop_request, steer, steering_options


@click.command(cls=CeleryCommand)
@steering_options()
@click.pass_context
def bump(ctx: click.Context, /, **options: Any) -> None:
    """Make pending tasks the next to run, in this order.

    They go ahead of everything in level 0 and are pinned there. A held task stays held, and runs first once it is
    released. An ID may be abbreviated.

    For example:

    \b
    $ celery -A proj dynprio bump 5f2a0c4e-7d2b-4b57-9a53-6d3f0f4f9d11
    $ celery -A proj dynprio bump --key "tenant 7" --limit 10 --why "they called"
    """  # noqa: D301 - Click looks for the character, not for what a raw string has
    steer(ctx, "bump", pop_request(options), lambda operations, tasks, why: operations.bump(tasks, why))


@click.command(cls=CeleryCommand)
@steering_options()
@click.pass_context
def hold(ctx: click.Context, /, **options: Any) -> None:
    """Keep pending tasks from running until they are released.

    They stay held when workers, reprioritizers, or a broker that keeps its data restart. A filter matches only tasks
    that are not held yet.

    For example:

    \b
    $ celery -A proj dynprio hold 5f2a0c4e-7d2b-4b57-9a53-6d3f0f4f9d11
    $ celery -A proj dynprio hold --task "bank.*" --yes --why "the bank is down"
    """  # noqa: D301 - Click looks for the character, not for what a raw string has
    steer(ctx, "hold", pop_request(options), lambda operations, tasks, why: operations.hold(tasks, why), held=False)


@click.command(cls=CeleryCommand)
@steering_options()
@click.pass_context
def release(ctx: click.Context, /, **options: Any) -> None:
    """Let held tasks run again.

    Each returns to the level that its score gives it, or to the one it is pinned to. A filter matches only held tasks.

    For example:

    \b
    $ celery -A proj dynprio release 5f2a0c4e-7d2b-4b57-9a53-6d3f0f4f9d11
    $ celery -A proj dynprio release --held --yes
    """  # noqa: D301 - Click looks for the character, not for what a raw string has
    steer(
        ctx, "release", pop_request(options), lambda operations, tasks, why: operations.release(tasks, why), held=True
    )


@click.command(cls=CeleryCommand)
@steering_options()
@click.pass_context
def cancel(ctx: click.Context, /, **options: Any) -> None:
    """Remove pending tasks from the broker for good.

    Their results become REVOKED, and whatever waits for them fails, as when a worker discards a revoked task. No worker
    needs to be running. Workers also discard what they have reserved or scheduled; a running task is not terminated.

    For example:

    \b
    $ celery -A proj dynprio cancel 5f2a0c4e-7d2b-4b57-9a53-6d3f0f4f9d11
    $ celery -A proj dynprio cancel --trace 0af7651916cd43dd8448eb211c80319c --why "the order was withdrawn"
    """  # noqa: D301 - Click looks for the character, not for what a raw string has
    steer(ctx, "cancel", pop_request(options), lambda operations, tasks, why: operations.cancel(tasks, why))
