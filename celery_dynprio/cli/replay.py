"""``dynprio replay``: what a policy would have done with a recorded workload."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace as but
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from celery.bin.base import CeleryCommand

from celery_dynprio.cli.rendering import print_json, terminal_width
from celery_dynprio.cli.session import WrongUsage, json_option, one_line_errors, settings_of
from celery_dynprio.cli.workloads import OWN, Played, fidelity_of, option, played, policy_at, progress

if TYPE_CHECKING:
    from celery_dynprio.lab.study import Study
    from celery_dynprio.policies import Policy
    from celery_dynprio.settings import Settings

_output = partial(option, "Output")


@click.command(cls=CeleryCommand)
@option(
    "Policy",
    "--policy",
    "places",
    metavar="MODULE:POLICY",
    multiple=True,
    help="A policy to play; may be repeated. 'app', as without this option, is the app's own.",
)
@played
@option(
    "Workload",
    "--seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Play the blocks of the recording in this many random orders, for confidence intervals; 1 plays it as it is.",
)
@_output(
    "--fail-if-worse",
    "promises",
    metavar="MEASURE",
    multiple=True,
    help="Exit with 1 if the first policy is worse than the second in this measure by more than the noise: 'in time', "
    "'checkout p95'. May be repeated.",
)
@_output(
    "--limit",
    type=click.IntRange(min=0),
    default=8,
    show_default=True,
    help="Show this many classes, keys and losses; 0 for all.",
)
@_output("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page with charts.")
@_output(
    "--save", type=click.Path(dir_okay=False, path_type=Path), help="Write what is played as .jsonl or .swf, also .gz."
)
@json_option
@click.pass_context
def replay(
    ctx: click.Context,
    /,
    *,
    places: Sequence[str],
    promises: Sequence[str],
    as_json: bool,
    limit: int,
    html: Path | None,
    **given: Any,
) -> None:
    """Replay a recorded workload under policies, and compare them.

    Simulates the queue and its workers. Nothing is published and no broker is asked. Plain queues, static priorities
    and bounds that nobody can beat are always played too. RECORDING is a file in the lab's own format, in Standard
    Workload Format, or of the public workloads of Azure Functions or Google Borg.

    For example:

    \b
    $ celery -A proj dynprio replay recording.jsonl.gz --workers 8
    $ celery -A proj dynprio replay recording.jsonl.gz --workers 8 --seeds 20 --policy app --policy proj:other
    """  # noqa: D301 - Click looks for the character, not for what a raw string has
    from celery_dynprio.cli.replay_report import draw  # noqa: PLC0415 - see the package
    from celery_dynprio.lab.formats.files import writing  # noqa: PLC0415
    from celery_dynprio.lab.page import page  # noqa: PLC0415
    from celery_dynprio.lab.regressions import is_worse, promised, told  # noqa: PLC0415
    from celery_dynprio.lab.report import as_object  # noqa: PLC0415

    settings = settings_of(ctx.obj.app)
    if promises and len(places) < 2:  # noqa: PLR2004 - one and the other
        raise WrongUsage("--fail-if-worse compares two policies: give --policy twice, the changed one first")
    with one_line_errors():
        policies = _policies(settings, places)
        found = _play(Played.of(ctx.obj.app, settings, given), policies, given)
        kept = promised("--fail-if-worse", promises, found, *list(policies)[:2]) if promises else []
        if html is not None:
            with writing(html) as file:
                file.write(page(found))
    if as_json:
        print_json(as_object(found, limit or None))
    else:
        for line in draw(found, limit or None, terminal_width()):
            ctx.obj.echo(line)
    for each in kept:
        click.echo(told(each), err=True)
    ctx.exit(any(map(is_worse, kept)))


def _policies(settings: Settings, places: Sequence[str]) -> Mapping[str, Policy]:
    found: dict[str, Policy] = {}
    for place in places or [OWN]:
        short = place.rpartition(":")[2]
        found[place if short in found else short] = policy_at(settings, place)
    return found


def _play(what: Played, policies: Mapping[str, Policy], given: Mapping[str, Any]) -> Study:
    from celery_dynprio.lab.contenders import contenders  # noqa: PLC0415
    from celery_dynprio.lab.formats.opening import save_recording  # noqa: PLC0415
    from celery_dynprio.lab.study import study  # noqa: PLC0415

    players, seeds = contenders(policies, what.production), given["seeds"]
    if given["save"] is not None:
        save_recording(given["save"], what.workload.recorded())
    with progress(seeds * len(players), "replays") as count:
        found = study(what.workload, players, what.fleet, tick=what.tick, seeds=seeds, by=what.by, progress=count)
    return but(found, fidelity=fidelity_of(what, policies.values()))
