"""``celery -A proj dynprio ...``: one file a command group.

Celery imports this for each of its own commands, so what a command needs is imported when it runs.
"""

from __future__ import annotations

from typing import Any

import click
from celery.bin.base import handle_preload_options

from celery_dynprio.cli.doctor import doctor
from celery_dynprio.cli.drain import drain
from celery_dynprio.cli.explain import explain
from celery_dynprio.cli.list import list_
from celery_dynprio.cli.log import log
from celery_dynprio.cli.pause import pause, resume
from celery_dynprio.cli.policy import policy
from celery_dynprio.cli.run import run
from celery_dynprio.cli.stats import stats
from celery_dynprio.cli.steer import bump, cancel, hold, release, reprioritize
from celery_dynprio.cli.top import top
from celery_dynprio.cli.trace import trace

__all__ = ["dynprio"]


@click.group(name="dynprio")
@click.pass_context
@handle_preload_options
def dynprio(_ctx: click.Context, **_: Any) -> None:
    """See, steer and keep in the right order what waits in the managed queues.

    For example:

    \b
    $ celery -A proj dynprio run
    $ celery -A proj dynprio list --key megacorp
    $ celery -A proj dynprio explain 5f2a0c4e-7d2b-4b57-9a53-6d3f0f4f9d11
    $ celery -A proj dynprio bump 5f2a0c4e-7d2b-4b57-9a53-6d3f0f4f9d11
    $ celery -A proj dynprio cancel --task shop.report --older 3600
    """  # noqa: D301 - Click looks for the character, not for what a raw string has


for commands in (
    (list_, top, explain, stats, policy, trace, log),
    (bump, hold, release, reprioritize, cancel),
    (run, pause, resume, drain, doctor),
):
    for command in commands:
        dynprio.add_command(command)
