"""``dynprio replay``: what a policy would have done with a recorded workload."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from celery.bin.base import CeleryCommand, CeleryOption

from celery_dynprio.cli.policy import imported_policy
from celery_dynprio.cli.rendering import print_json, terminal_width
from celery_dynprio.cli.session import WrongUsage, duration, json_option, one_line_errors, settings_of

if TYPE_CHECKING:
    from celery_dynprio.lab.contenders import Production
    from celery_dynprio.lab.study import Study
    from celery_dynprio.lab.workload import Workload
    from celery_dynprio.levels import Scale
    from celery_dynprio.policies import Policy
    from celery_dynprio.settings import Settings

#: What --policy calls the app's own policy.
OWN: Final = "app"


def _option(group: str, *names: str, **rest: Any) -> Any:
    return click.option(*names, cls=CeleryOption, help_group=f"{group} Options", **rest)


_policy, _trace = partial(_option, "Policy"), partial(_option, "Trace")
_workload, _output = partial(_option, "Workload"), partial(_option, "Output")


@click.command(cls=CeleryCommand)
@click.argument("trace", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_policy(
    "--policy",
    "places",
    metavar="MODULE:POLICY",
    multiple=True,
    help="A policy to play; may be repeated. 'app', as without this option, is the app's own.",
)
@_workload("--workers", type=click.IntRange(min=1), help="How many workers; without it, those of the trace.")
@_workload("--concurrency", type=click.IntRange(min=1), default=1, show_default=True, help="Slots of each worker.")
@_workload(
    "--prefetch",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Tasks that a worker reserves for each slot beside the one that runs.",
)
@_workload(
    "--load", type=click.FloatRange(min=0, min_open=True), help="Stretch arrivals to this offered load; 1 is full."
)
@_workload("--mean-run", type=duration(0.000001), metavar="SECONDS", help="Scale run times to this mean.")
@_workload("--tasks", type=click.IntRange(min=1), help="Play only this many tasks, the first ones.")
@_workload("--tick", type=duration(0.01), metavar="SECONDS", help="Time between two ticks; without it, the app's.")
@_workload(
    "--seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Play the blocks of the trace in this many random orders, for confidence intervals; 1 plays it as it is.",
)
@_trace(
    "--format", "kind", type=click.Choice(["jsonl", "swf", "azure", "borg"]), help="What the file's name does not tell."
)
@_trace(
    "--key",
    "key",
    type=click.Choice(["user", "group"]),
    default="user",
    show_default=True,
    help="SWF: what the key is.",
)
@_trace("--keys", type=click.IntRange(min=1), help="Fold users into this many keys.")
@_trace("--tiers", metavar="LIST", help="Give users weights: weight:share[:deadline],... as in 9:0.1:30s,1:0.9.")
@_trace(
    "--durations", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Azure: the file with durations."
)
@_trace(
    "--sample", type=click.FloatRange(0, 1, min_open=True), default=1.0, help="Azure: read this share of the functions."
)
@_output(
    "--class",
    "by",
    type=click.Choice(["name", "weight", "key"]),
    default="name",
    show_default=True,
    help="What makes a class of tasks.",
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
    trace: Path,
    places: Sequence[str],
    as_json: bool,
    limit: int,
    html: Path | None,
    **given: Any,
) -> None:
    """Replay a recorded workload under policies, and compare them.

    Simulates the queue and its workers. Nothing is published and no broker is asked. Plain queues, static priorities
    and bounds that nobody can beat are always played too. TRACE is a file in the lab's own format, in Standard
    Workload Format, or of the public traces of Azure Functions or Google Borg.

    For example:

    \b
    $ celery -A proj dynprio replay trace.jsonl.gz --workers 8
    $ celery -A proj dynprio replay trace.jsonl.gz --workers 8 --seeds 20 --policy app --policy proj:other
    """  # noqa: D301 - Click looks for the character, not for what a raw string has
    from celery_dynprio.cli.replay_report import draw  # noqa: PLC0415 - see the package
    from celery_dynprio.lab.report import as_object  # noqa: PLC0415

    settings = settings_of(ctx.obj.app)
    from celery_dynprio.lab.formats.files import writing  # noqa: PLC0415
    from celery_dynprio.lab.page import page  # noqa: PLC0415

    with one_line_errors():
        policies = _policies(settings, places)
        found = _play(trace, policies, settings, _scale(ctx.obj.app), given)
        if html is not None:
            with writing(html) as file:
                file.write(page(found))
    if as_json:
        print_json(as_object(found, limit or None))
        return
    for line in draw(found, limit or None, terminal_width()):
        ctx.obj.echo(line)


def _policies(settings: Settings, places: Sequence[str]) -> Mapping[str, Policy]:
    found: dict[str, Policy] = {}
    for place in places or [OWN]:
        short = place.rpartition(":")[2]
        policy = settings.policy if place == OWN else imported_policy(settings, "--policy", place)
        found[place if short in found else short] = policy
    return found


def _scale(app: Any) -> Scale:
    """How the app's broker numbers the levels; the add-on has set them."""
    from celery_dynprio.levels import Scale, steps_in  # noqa: PLC0415

    return Scale.of(steps_in(app.conf))


def _play(
    path: Path, policies: Mapping[str, Policy], settings: Settings, scale: Scale, given: Mapping[str, Any]
) -> Study:
    from celery_dynprio.lab.contenders import contenders  # noqa: PLC0415
    from celery_dynprio.lab.formats.opening import save_trace  # noqa: PLC0415
    from celery_dynprio.lab.replay import Fleet  # noqa: PLC0415
    from celery_dynprio.lab.study import study  # noqa: PLC0415

    fleet = Fleet(given["workers"], given["concurrency"], given["prefetch"])
    if given["load"] is not None and fleet.workers is None:
        raise WrongUsage("--load is about slots: give --workers too")
    workload, players = _workload_of(path, fleet.slots, given), contenders(policies, _production(settings, scale))
    if given["save"] is not None:
        save_trace(given["save"], workload.recorded())
    tick = settings.interval if given["tick"] is None else given["tick"]
    with _progress(given["seeds"] * len(players)) as progress:
        return study(workload, players, fleet, tick=tick, seeds=given["seeds"], by=given["by"], progress=progress)


@contextmanager
def _progress(replays: int) -> Iterator[Callable[[], None]]:
    """Show in a terminal how many replays are done: the function that is yielded counts one."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    with click.progressbar(length=replays, label="replays", file=sys.stderr) as bar:
        yield lambda: bar.update(1)


def _workload_of(path: Path, slots: int | None, given: Mapping[str, Any]) -> Workload:
    from celery_dynprio.lab.formats.opening import Options, open_trace  # noqa: PLC0415
    from celery_dynprio.lab.users import Users, tiers  # noqa: PLC0415
    from celery_dynprio.lab.workload import Workload  # noqa: PLC0415

    users = Users(() if given["tiers"] is None else tiers(given["tiers"]), given["keys"])
    options = Options(users, given["key"], given["durations"], given["sample"])
    trace = open_trace(path, given["kind"], options)
    return Workload(trace, slots, given["load"], given["mean_run"], given["tasks"])


def _production(settings: Settings, scale: Scale) -> Production:
    """What policies are carried out with: as the app is set."""
    from celery_dynprio.lab.contenders import Production  # noqa: PLC0415

    return Production(
        scale,
        settings.window,
        settings.hysteresis,
        settings.budget,
        half_life=settings.half_life,
    )
