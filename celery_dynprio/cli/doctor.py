"""``dynprio doctor``: what would spoil the order, and what to set."""

from __future__ import annotations

from typing import Final

import click
from celery.bin.base import CeleryCommand, CeleryOption

from celery_dynprio.cli.session import duration, one_line_errors, settings_of

_COLOURS: Final = {"error": "red", "warning": "yellow", "ok": "green"}


@click.command(cls=CeleryCommand)
@click.option(
    "--timeout",
    type=duration(0.1),
    metavar="SECONDS",
    default=2.0,
    show_default=True,
    cls=CeleryOption,
    help_group="Doctor Options",
    help="Seconds in which running workers must answer.",
)
@click.pass_context
def doctor(ctx: click.Context, timeout: float) -> None:
    """Check the settings, the broker and the running workers.

    Each finding says what to set. Exits with 1 if one of them is an error.
    """
    from celery_dynprio.doctor import examine  # noqa: PLC0415 - see the package

    settings = settings_of(ctx.obj.app)
    with one_line_errors():
        findings = examine(ctx.obj.app, settings, timeout)
    for finding in sorted(findings, key=lambda finding: list(_COLOURS).index(finding.level)):
        level = ctx.obj.style(f"{finding.level:7}", fg=_COLOURS[finding.level])
        ctx.obj.echo(f"{level} {finding.check}: {finding.text}")
    if any(finding.level == "error" for finding in findings):
        ctx.exit(1)
