"""``dynprio tune``: other numbers for a policy, found on one part of a recording and judged on the rest."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from celery.bin.base import CeleryCommand

from celery_dynprio.cli.rendering import print_json, terminal_width
from celery_dynprio.cli.session import WrongUsage, duration, json_option, one_line_errors, settings_of
from celery_dynprio.cli.workloads import OWN, Played, fidelity_of, option, played, policy_at, progress

if TYPE_CHECKING:
    from celery_dynprio.lab.tuning import Tuned
    from celery_dynprio.policies import Policy

_search, _output = partial(option, "Search"), partial(option, "Output")


@click.command(cls=CeleryCommand)
@option(
    "Policy",
    "--policy",
    "place",
    metavar="MODULE:POLICY",
    default=OWN,
    show_default=True,
    help="The policy to start from; 'app' is the app's own.",
)
@_search(
    "--objective",
    "texts",
    metavar="MEASURE",
    multiple=True,
    help="What to improve, as replay names it: 'mean wait', 'in time', 'checkout p95'. May be repeated; without it, "
    "the weighted mean wait and, with deadlines, the share that starts in time.",
)
@_search("--trials", type=click.IntRange(min=1), default=100, show_default=True, help="Try this many policies.")
@_search("--seconds", type=duration(0.0), metavar="SECONDS", help="Begin no other trial after this time.")
@_search(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The same one tries the same policies."
)
@_search(
    "--split",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.7,
    show_default=True,
    help="Search on this share of the time, the first, and judge on the rest.",
)
@_search(
    "--seeds",
    type=click.IntRange(min=20),
    default=40,
    show_default=True,
    help="Judge by this many plays of the rest, with its blocks in random orders.",
)
@played
@_output("--limit", type=click.IntRange(1, 26), default=5, show_default=True, help="Judge and show this many policies.")
@_output(
    "--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page with charts of the judged plays."
)
@json_option
@click.pass_context
def tune(ctx: click.Context, /, *, place: str, as_json: bool, html: Path | None, limit: int, **given: Any) -> None:
    """Search for better weights and other numbers for a policy.

    Other numbers are tried on the first part of the recording. Those that no other ones beat in all objectives are then
    compared with the present policy on the rest. A gain that may be chance is not recommended. Nothing is changed: what
    is printed can be pasted into the settings. Ctrl-C ends the search and shows what was found. RECORDING is a file as
    for replay. Needs Optuna, which the extra 'tune' brings.

    For example:

    \b
    $ celery -A proj dynprio tune week.jsonl.gz --workers 8
    $ celery -A proj dynprio tune week.jsonl.gz --workers 8 --objective "checkout in time" --objective "mean wait"
    """  # noqa: D301 - Click looks for the character, not for what a raw string has
    from celery_dynprio.cli.tune_report import as_object, draw  # noqa: PLC0415 - see the package
    from celery_dynprio.lab.formats.files import writing  # noqa: PLC0415
    from celery_dynprio.lab.page import page  # noqa: PLC0415
    from celery_dynprio.lab.search import require_optuna  # noqa: PLC0415

    settings = settings_of(ctx.obj.app)
    with one_line_errors():
        require_optuna()
        found = _tune(Played.of(ctx.obj.app, settings, given), (place, policy_at(settings, place)), limit, given)
        if html is not None:
            with writing(html) as file:
                file.write(page(found.judged.study))
    if as_json:
        print_json(as_object(found))
        return
    for line in draw(found, terminal_width()):
        ctx.obj.echo(line)


def _tune(what: Played, own: tuple[str, Policy], limit: int, given: Mapping[str, Any]) -> Tuned:
    from celery_dynprio.lab.recording import extent  # noqa: PLC0415
    from celery_dynprio.lab.search import Search, Trial, spread  # noqa: PLC0415
    from celery_dynprio.lab.tuning import Split, Stage, Tuned, judge, objectives, values  # noqa: PLC0415

    if what.fleet.workers is None:
        raise WrongUsage(
            "tune plays parts of the recording in other orders, so it needs the same workers all the time: "
            "give --workers, and --concurrency if not 1"
        )
    split = Split.of(what.workload, given["split"], what.by)
    stage = Stage(what.fleet, what.production, what.tick)
    present = stage.play(split.first, split.group, own[1])
    aims = objectives(given["texts"], present)
    search = Search(Trial(own[1], values(aims, present)), [each.more for each in aims], seed=given["seed"])
    with progress(given["trials"], "searching (Ctrl-C shows what is found)") as count:
        searched = search.run(
            lambda policy: values(aims, stage.play(split.first, split.group, policy)),
            trials=given["trials"],
            enough=_enough(given["seconds"]),
            progress=count,
        )
    others = [each for each in searched.front if each is not searched.trials[0]]
    chosen = spread(others, [each.more for each in aims], limit) if others else []
    with progress(given["seeds"] * (len(chosen) + 2), "judging") as count:
        judged = judge(split, stage, own, chosen, aims, seeds=given["seeds"], progress=count)
    study = replace(judged.study, fidelity=fidelity_of(what, [own[1]]))
    return Tuned(given["split"], extent(split.first), searched, replace(judged, study=study))


def _enough(seconds: float | None) -> Callable[[], bool]:
    """Whether the time for the search is over."""
    end = math.inf if seconds is None else time.monotonic() + seconds
    return lambda: time.monotonic() >= end
