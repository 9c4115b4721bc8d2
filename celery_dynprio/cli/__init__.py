"""``celery -A proj dynprio ...``: one file a command group.

Celery imports this for each of its own commands, so what a command needs is imported when it runs.
"""

from __future__ import annotations

from typing import Any

import click
from celery.bin.base import handle_preload_options

from celery_dynprio.cli.doctor import doctor
from celery_dynprio.cli.drain import drain
from celery_dynprio.cli.pause import pause, resume
from celery_dynprio.cli.run import run
from celery_dynprio.cli.trace import trace

__all__ = ["dynprio"]


@click.group(name="dynprio")
@click.pass_context
@handle_preload_options
def dynprio(_ctx: click.Context, **_: Any) -> None:
    """Keep the pending tasks of managed queues in the right order.

    For example:

    \b
    $ celery -A proj dynprio run
    $ celery -A proj dynprio run --dry-run --once
    $ celery -A proj dynprio doctor
    $ celery -A proj dynprio trace 0af7651916cd43dd8448eb211c80319c
    """  # noqa: D301 - Click looks for the character, not for what a raw string has


for command in (run, pause, resume, drain, doctor, trace):
    dynprio.add_command(command)
