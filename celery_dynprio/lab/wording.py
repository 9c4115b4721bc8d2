"""How a study is put into words, in a terminal and on a page."""

from __future__ import annotations

from collections.abc import Iterator

from celery_dynprio.lab.comparison import Interval, Measure
from celery_dynprio.lab.fidelity import Fidelity
from celery_dynprio.lab.study import Study


def heading(found: Study) -> str:
    """What was played, in one line."""
    played, fleet = found.extent, found.fleet
    slots = "the workers of the recording"
    if fleet.slots is not None:
        slots = f"{fleet.slots:,} slot{'' if fleet.slots == 1 else 's'}, offered load {played.load(fleet.slots):.2f}"
    tasks = f"{played.tasks:,} task{'' if played.tasks == 1 else 's'} in {played.seconds:,.0f} s"
    turnaround = f", {fleet.turnaround * 1000:.0f} ms between two runs" if fleet.turnaround else ""
    return f"{tasks}, {slots}{turnaround}, a tick every {found.tick:g} s"


def caveats(found: Study) -> Iterator[str]:
    """What the figures mean, a sentence or two at a time."""
    if found.resampled:
        yield f"Played {found.seeds} times, with the blocks of the recording in a random order; figures are means."
    else:
        yield "Played once, as it is: differences may be chance. Use --seeds 20 for confidence intervals."
    yield "Open loop: tasks arrive when they did, however long they wait."
    unfinished = max((each.unfinished for figures in found.figures.values() for each in figures), default=0)
    if unfinished:
        yield f"{unfinished:,} tasks or fewer never ended: no worker was left. They are not in the figures."
    if found.fidelity is not None:
        yield faithful(found.fidelity)


def faithful(found: Fidelity) -> str:
    """How faithful the replay is, in a sentence."""
    if found.unknown:
        return f"Fidelity is not known: {found.unknown}."
    total, *classes = found.waits
    errors = [each.error for each in classes if each.error is not None]
    if total.error is None or not errors:
        return "Fidelity is not known: tasks hardly waited."
    return (
        "Fidelity: replayed under the policy that was in force, the mean wait is "
        f"{shown_error(total.error)} off the recorded one, by class {shown_error(min(errors))} to "
        f"{shown_error(max(errors))}."
    )


def shown_error(error: float | None) -> str:
    """The error of one class."""
    return "-" if error is None else f"{round(error, 2) + 0.0:+.0%}"  # and no -0%


def shown(measure: Measure, value: float, sign: str = "") -> str:
    """A value of a measure, without its unit."""
    if measure.share:
        return f"{value:{sign}.1%}"
    if measure.unit:
        return f"{value:{sign},.1f}"
    return f"{value:{sign}.2f}"


def shown_interval(found: Interval) -> str:
    """A share, and between which ones it is."""
    if found.low is None or found.high is None:
        return f"{found.mean:.0%}"
    return f"{found.mean:.0%} ({found.low:.0%} to {found.high:.0%})"
