"""What the commands of the lab share: the options that say what is played, and on how many workers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from celery.bin.base import CeleryOption

from celery_dynprio.cli.policy import imported_policy
from celery_dynprio.cli.session import WrongUsage, duration

if TYPE_CHECKING:
    from celery_dynprio.lab.conditions import Conditions
    from celery_dynprio.lab.contenders import Production
    from celery_dynprio.lab.fidelity import Fidelity
    from celery_dynprio.lab.recording import Recording
    from celery_dynprio.lab.replay import Fleet
    from celery_dynprio.lab.workload import Workload
    from celery_dynprio.policies import Policy
    from celery_dynprio.settings import Settings

#: What --policy calls the app's own policy.
OWN: Final = "app"


def option(group: str, *names: str, **rest: Any) -> Any:
    """An option that help shows under the heading of its group."""
    return click.option(*names, cls=CeleryOption, help_group=f"{group} Options", **rest)


_workload, _file = partial(option, "Workload"), partial(option, "Recording")

_OPTIONS: Final = (
    click.argument("recording", type=click.Path(exists=True, path_type=Path)),
    _workload("--workers", type=click.IntRange(min=1), help="How many workers; without it, those of the recording."),
    _workload("--concurrency", type=click.IntRange(min=1), default=1, show_default=True, help="Slots of each worker."),
    _workload(
        "--prefetch",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Tasks that a worker reserves for each slot beside the one that runs.",
    ),
    _workload(
        "--load", type=click.FloatRange(min=0, min_open=True), help="Stretch arrivals to this offered load; 1 is full."
    ),
    _workload("--mean-run", type=duration(0.000001), metavar="SECONDS", help="Scale run times to this mean."),
    _workload("--tasks", type=click.IntRange(min=1), help="Play only this many tasks, the first ones."),
    _workload("--tick", type=duration(0.01), metavar="SECONDS", help="Time between two ticks; without it, the app's."),
    _file(
        "--format",
        "kind",
        type=click.Choice(["jsonl", "swf", "azure", "borg"]),
        help="What the file's name does not tell.",
    ),
    _file(
        "--key",
        "key",
        type=click.Choice(["user", "group"]),
        default="user",
        show_default=True,
        help="SWF: what the key is.",
    ),
    _file("--keys", type=click.IntRange(min=1), help="Fold users into this many keys."),
    _file("--tiers", metavar="LIST", help="Give users weights: weight:share[:deadline],... as in 9:0.1:30s,1:0.9."),
    _file(
        "--durations",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Azure: the file with durations.",
    ),
    _file(
        "--sample",
        type=click.FloatRange(0, 1, min_open=True),
        default=1.0,
        help="Azure: read this share of the functions.",
    ),
    option(
        "Output",
        "--class",
        "by",
        type=click.Choice(["name", "weight", "key"]),
        default="name",
        show_default=True,
        help="What makes a class of tasks.",
    ),
)


def played(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the argument RECORDING and all options that say what is played; :meth:`Played.of` reads them."""
    for each in reversed(_OPTIONS):
        command = each(command)
    return command


@dataclass(frozen=True, slots=True)
class Played:
    """What the options of :func:`played` say, together with the app's settings."""

    workload: Workload
    fleet: Fleet
    production: Production
    #: Seconds.
    tick: float
    #: What makes a class of tasks.
    by: str

    @classmethod
    def of(cls, app: Any, settings: Settings, given: Mapping[str, Any]) -> Played:
        """Read the options."""
        from celery_dynprio.assembly import production  # noqa: PLC0415 - see the package
        from celery_dynprio.lab.replay import Fleet  # noqa: PLC0415

        workload = _workload_of(given)
        fleet = Fleet(given["workers"], given["concurrency"], given["prefetch"], _turnaround(workload.recording))
        if given["load"] is not None and fleet.workers is None:
            raise WrongUsage("--load is about slots: give --workers too")
        tick = settings.interval if given["tick"] is None else given["tick"]
        return cls(replace(workload, slots=fleet.slots), fleet, production(app, settings), tick, given["by"])


def policy_at(settings: Settings, place: str) -> Policy:
    """The policy that --policy names: the app's own or an imported one."""
    return settings.policy if place == OWN else imported_policy(settings, "--policy", place)


def fidelity_of(what: Played, policies: Iterable[Policy]) -> Fidelity | None:
    """How faithful replays of what is played are, without any scaling; None if no recorder of ours wrote it.

    ``policies`` are looked through for the one that was in force, if plain data cannot say it.
    """
    from celery_dynprio.lab.fidelity import Fidelity, fidelity  # noqa: PLC0415 - see the package
    from celery_dynprio.lab.formats.jsonl import JsonLines  # noqa: PLC0415
    from celery_dynprio.lab.study import classes  # noqa: PLC0415
    from celery_dynprio.lab.workload import Workload  # noqa: PLC0415

    recording = what.workload.recording
    if not isinstance(recording, JsonLines) or not recording.recorded:
        return None
    conditions = recording.conditions()
    if conditions is None:
        return Fidelity(unknown="settings changed while it was recorded")
    policy = _in_force(conditions, policies)
    if policy is None:
        return Fidelity(unknown=f"give the policy that was in force, {conditions.policy}, with --policy")
    fleet = what.fleet
    if what.workload.extent().has_slots:
        fleet = replace(fleet, workers=None, concurrency=1, prefetch=conditions.prefetch)
    unscaled = Workload(recording, limit=what.workload.limit)
    return fidelity(unscaled.recorded, conditions, policy, classes(recording, what.by), fleet)


def _in_force(conditions: Conditions, policies: Iterable[Policy]) -> Policy | None:
    from celery_dynprio.configuration.declarations import policy_of  # noqa: PLC0415 - see the package
    from celery_dynprio.errors import DynPrioError  # noqa: PLC0415

    with suppress(DynPrioError, TypeError, ValueError, AttributeError):  # whatever another version wrote
        if conditions.declared:
            return policy_of(conditions.declared)
    return next((each for each in policies if repr(each) == conditions.policy), None)


@contextmanager
def progress(steps: int, label: str) -> Iterator[Callable[[], None]]:
    """Show in a terminal how many steps are done: the function that is yielded counts one."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    with click.progressbar(length=steps, label=label, file=sys.stderr) as bar:
        yield lambda: bar.update(1)


def _turnaround(recording: Recording) -> float:
    """What a slot needs between two runs, as far as the recording tells."""
    from celery_dynprio.lab.formats.jsonl import JsonLines  # noqa: PLC0415 - see the package

    return recording.turnaround() if isinstance(recording, JsonLines) else 0.0


def _workload_of(given: Mapping[str, Any]) -> Workload:
    from celery_dynprio.lab.formats.opening import Options, open_recording  # noqa: PLC0415
    from celery_dynprio.lab.users import Users, tiers  # noqa: PLC0415
    from celery_dynprio.lab.workload import Workload  # noqa: PLC0415

    users = Users(() if given["tiers"] is None else tiers(given["tiers"]), given["keys"])
    options = Options(users, given["key"], given["durations"], given["sample"])
    recording = open_recording(given["recording"], given["kind"], options)
    return Workload(recording, None, given["load"], given["mean_run"], given["tasks"])
