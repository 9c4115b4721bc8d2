"""``celery -A proj dynprio ...``: one file a command group.

Celery imports this for each of its own commands, so what a command needs is imported when it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import click
from celery.bin.base import handle_preload_options

from celery_dynprio.cli.count import count
from celery_dynprio.cli.doctor import doctor
from celery_dynprio.cli.drain import drain
from celery_dynprio.cli.explain import explain
from celery_dynprio.cli.listing import list_
from celery_dynprio.cli.log import log
from celery_dynprio.cli.pause import pause, resume
from celery_dynprio.cli.policy import policy
from celery_dynprio.cli.record import record
from celery_dynprio.cli.replay import replay
from celery_dynprio.cli.reprioritize import reprioritize
from celery_dynprio.cli.run import run
from celery_dynprio.cli.share import share
from celery_dynprio.cli.stats import stats
from celery_dynprio.cli.steer import bump, cancel, hold, release
from celery_dynprio.cli.top.command import top
from celery_dynprio.cli.trace import trace
from celery_dynprio.cli.tune import tune

__all__ = ["dynprio"]

#: The order in which help shows them.
SECTIONS: Final[dict[str, Sequence[click.Command]]] = {
    "See": (list_, top, explain, stats, count, policy, trace, log, doctor),
    "Steer": (bump, reprioritize, hold, release, cancel, share, pause, resume, drain),
    "Compare": (record, replay, tune),
    "Run": (run,),
}


class Sections(click.Group):
    """A group whose help shows its commands under headings, in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - Click's signature
        """Their names, for help and for shells that complete them."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each section; as Click's own, which knows one only."""
        longest = formatter.width - 6 - max(map(len, self.list_commands(ctx)))
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(str(command.name), command.get_short_help_str(longest)) for command in commands])


@click.group(name="dynprio", cls=Sections)
@click.pass_context
@handle_preload_options
def dynprio(_ctx: click.Context, **_: Any) -> None:
    """See and steer the pending tasks of managed queues, and keep them in order.

    For example:

    \b
    $ celery -A proj dynprio list
    $ celery -A proj dynprio explain 5f2a0c4e-7d2b-4b57-9a53-6d3f0f4f9d11
    $ celery -A proj dynprio bump 5f2a0c4e-7d2b-4b57-9a53-6d3f0f4f9d11 --why "they called"
    $ celery -A proj dynprio run
    """  # noqa: D301 - Click looks for the character, not for what a raw string has


for section in SECTIONS.values():
    for command in section:
        dynprio.add_command(command)
