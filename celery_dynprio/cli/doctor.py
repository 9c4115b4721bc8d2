"""``dynprio doctor``: what would spoil the order, and what to set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import click
from celery.bin.base import CeleryCommand, CeleryOption

from celery_dynprio.cli.rendering import counted, print_json
from celery_dynprio.cli.session import duration, installed_in, json_option, one_line_errors
from celery_dynprio.ports.health import Finding, Severity

#: Processes that are named in one line.
MOST_NAMES: Final = 3

#: Checks that are shown in one line as long as all is well.
_SETTINGS: Final = ("prefetch", "queue_order_strategy", "visibility_timeout", "priority_steps")
_BROKER: Final = ("redis", "maxmemory-policy", "maxmemory", "persistence", "replication", "connections", "clock")

_COLOURS: Final[dict[Severity, str]] = {"error": "red", "warning": "yellow", "ok": "green"}


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
@json_option
@click.pass_context
def doctor(ctx: click.Context, *, timeout: float, as_json: bool) -> None:
    """Check the settings, the broker, the queues and the running workers.

    Each finding says what to set or to type. Exits with 1 if one of them is an error, with 0 if all are well or
    warnings, with 2 for wrong usage.

    For example:

    \b
    $ celery -A proj dynprio doctor
    $ celery -A proj dynprio doctor --timeout 5 --json
    """  # noqa: D301 - Click looks for the character, not for what a raw string has
    from celery_dynprio.doctor.gather import examine  # noqa: PLC0415 - see the package

    installation = installed_in(ctx.obj.app)
    with one_line_errors():
        findings = examine(installation, timeout)
    if as_json:
        print_json(findings_object(findings))
    else:
        for severity, line in finding_lines(findings):
            ctx.obj.echo(f"{ctx.obj.style(f'{severity:7}', fg=_COLOURS[severity])} {line}")
        ctx.obj.echo(_verdict(findings))
    if any(finding.severity == "error" for finding in findings):
        ctx.exit(1)


def finding_lines(findings: Sequence[Finding]) -> Iterator[tuple[Severity, str]]:
    """The lines that are shown, each with its severity, the worst first; what is well is folded to a few."""
    severities: tuple[Severity, ...] = ("error", "warning")
    for severity in severities:
        same: dict[tuple[str, str], list[str]] = {}
        for each in findings:
            if each.severity == severity:
                same.setdefault((each.check, each.text), []).append(each.whose)
        for (check, text), whose in same.items():
            yield severity, f"{check}: {_names(whose)}{text}"
    for line in _well(findings):
        yield "ok", line


def _well(findings: Sequence[Finding]) -> Iterator[str]:
    """What is well: one line for the settings, one for the broker, one for each other check."""
    wrong = {each.whose for each in findings if each.severity != "ok"}
    whose = dict.fromkeys(each.whose for each in findings if each.check in _SETTINGS and each.whose not in wrong)
    if whose:
        yield f"settings: {_names(list(whose))}{', '.join(_SETTINGS)}"
    lines: dict[str, list[str]] = {}
    for each in findings:
        if each.severity == "ok" and each.check not in _SETTINGS:
            lines.setdefault("broker" if each.check in _BROKER else each.check, []).append(each.text)
    for check, texts in lines.items():
        yield f"{check}: {'; '.join(texts)}"


def findings_object(findings: Sequence[Finding]) -> dict[str, Any]:
    """What ``--json`` prints."""
    return {
        "healthy": all(each.severity == "ok" for each in findings),
        "findings": [
            {"level": each.severity, "check": each.check, "text": each.text, "whose": each.whose} for each in findings
        ],
    }


def _names(whose: Sequence[str]) -> str:
    if not any(whose):
        return ""
    more = len(whose) - MOST_NAMES
    return ", ".join(whose[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "") + ": "


def _verdict(findings: Sequence[Finding]) -> str:
    errors, warnings = (sum(each.severity == severity for each in findings) for severity in ("error", "warning"))
    if not errors and not warnings:
        return "Healthy: nothing to do."
    return f"{counted(errors, 'error')}, {counted(warnings, 'warning')}."
