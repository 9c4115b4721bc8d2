"""``dynprio record``: what became of all tasks, for the policy lab."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from celery.bin.base import CeleryCommand, CeleryOption

from celery_dynprio.cli.session import WrongUsage, connected, duration, settings_of, stop_on_signals

if TYPE_CHECKING:
    from celery_dynprio.lab.recorder import Target
    from celery_dynprio.settings import Settings


@click.command(cls=CeleryCommand)
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--for",
    "seconds",
    type=duration(1.0),
    metavar="SECONDS",
    cls=CeleryOption,
    help_group="Recording Options",
    help="Stop after this time; without it, at SIGTERM or Ctrl-C.",
)
@click.option(
    "--size",
    type=click.IntRange(min=1),
    metavar="BYTES",
    cls=CeleryOption,
    help_group="Recording Options",
    help="Begin another file when one is as large as this.  [default: the setting dynprio_record_size]",
)
@click.option(
    "--files",
    type=click.IntRange(min=1),
    cls=CeleryOption,
    help_group="Recording Options",
    help="Keep this many files, and delete older ones.  [default: the setting dynprio_record_files]",
)
@click.option(
    "--hash-keys",
    is_flag=True,
    cls=CeleryOption,
    help_group="Recording Options",
    help="Hash fairness keys: with dynprio_record_secret, or else so that nobody can tell whose they are.",
)
@click.pass_context
def record(
    ctx: click.Context,
    *,
    file: Path | None,
    seconds: float | None,
    size: int | None,
    files: int | None,
    hash_keys: bool,
) -> None:
    """Record what becomes of all tasks, for replay.

    Writes names, keys, weights, deadlines, times, levels and outcomes; no arguments and no results. Workers begin to
    tell within seconds, and need no restart. FILE ends in .jsonl.gz or .jsonl; without it, it is the one that
    dynprio_record names. Files that are full are put aside, with the time in their name.

    For example:

    \b
    $ celery -A proj dynprio record recording.jsonl.gz --for 1h
    $ celery -A proj dynprio record recording.jsonl.gz --hash-keys
    $ celery -A proj dynprio replay recording.jsonl.gz
    """  # noqa: D301 - Click looks for the character, not for what a raw string has
    from celery_dynprio.assembly import recorder  # noqa: PLC0415 - see the package
    from celery_dynprio.monitoring.recording import record as go_on  # noqa: PLC0415

    app = ctx.obj.app
    settings = settings_of(app)
    target = _target(settings, file, size, files, hash_keys=hash_keys)
    stop = threading.Event()
    stop_on_signals(stop)
    with connected(app) as broker:
        recording = recorder(app, broker, settings, target)
        ctx.obj.echo(f"Recording to {target.path}.")
        go_on(recording, _stopping(stop, seconds))
    ctx.obj.echo(f"{recording.tries:,} tries of tasks are in {target.path}; {recording.dropped:,} were lost.")


def _target(settings: Settings, file: Path | None, size: int | None, files: int | None, *, hash_keys: bool) -> Target:
    from celery_dynprio.configuration.readers import read_path  # noqa: PLC0415 - see the package
    from celery_dynprio.errors import SettingError  # noqa: PLC0415
    from celery_dynprio.lab.recorder import Target  # noqa: PLC0415

    try:
        path = read_path("FILE", file) or settings.record
    except SettingError as exc:
        raise WrongUsage(f"{file}: use a FILE that ends in .jsonl.gz or .jsonl") from exc
    if path is None:
        raise WrongUsage("name a FILE that ends in .jsonl.gz, or set dynprio_record")
    secret = settings.record_secret or (secrets.token_hex() if hash_keys else None)
    return Target(Path(path), size or settings.record_size, files or settings.record_files, secret)


def _stopping(stop: threading.Event, seconds: float | None) -> Callable[[float], bool]:
    """What waits for so many seconds, and tells whether it is all over."""
    end = None if seconds is None else time.monotonic() + seconds

    def is_over(wait: float) -> bool:
        if end is None:
            return stop.wait(wait)
        return stop.wait(max(min(wait, end - time.monotonic()), 0.0)) or time.monotonic() >= end

    return is_over
