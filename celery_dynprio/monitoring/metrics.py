"""Metrics for Prometheus: names, units, labels and help texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final, TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from celery_dynprio.models import PendingTask, Report, Snapshot
from celery_dynprio.objectives import Standing
from celery_dynprio.ports.histograms import BOUNDS, OTHER, Distribution, Series, SeriesKey
from celery_dynprio.untrusted import clean

PREFIX: Final = "dynprio_"

#: So many keys, those with the most use, have a value of their own; the others are added up.
MOST_KEYS: Final = 20

#: The label of a task without a fairness key, and of a task whose level is unknown.
NO_KEY: Final = "(no key)"
NO_LEVEL: Final = "unknown"

#: Values of labels, in the order of their names.
Labels: TypeAlias = tuple[str, ...]

_BUCKETS: Final = [*map(floatToGoString, BOUNDS), "+Inf"]


def gauge(name: str, text: str, labels: Sequence[str], values: Mapping[Labels, float]) -> Metric:
    """Return a value that can go up and down."""
    family = GaugeMetricFamily(PREFIX + name, text, labels=labels)
    for label, value in values.items():
        family.add_metric(label, float(value))
    return family


def counter(name: str, text: str, labels: Sequence[str], values: Mapping[Labels, float]) -> Metric:
    """Return a value that only grows; its name gets the suffix ``_total``."""
    family = CounterMetricFamily(PREFIX + name, text, labels=labels)
    for label, value in values.items():
        family.add_metric(label, float(value))
    return family


def histogram(name: str, text: str, labels: Sequence[str], values: Mapping[Labels, Distribution]) -> Metric:
    """Return a histogram of durations in seconds."""
    family = HistogramMetricFamily(PREFIX + name, text, labels=labels)
    for label, value in values.items():
        family.add_metric(label, list(zip(_BUCKETS, accumulate(value.counts), strict=True)), value.total)
    return family


def waiting(reports: Iterable[Report]) -> Iterator[Metric]:
    """Yield how many tasks are pending in each queue, and for how long, as of the last read of a tick."""
    read = [(report, report.snapshot) for report in reports if report.snapshot is not None]
    yield from _depths(read)
    yield from _waits(read)
    yield gauge(
        "held_back",
        "Parked messages that yield to an objective.",
        ("queue",),
        {(report.queue,): report.held_back for report, _ in read},
    )
    yield gauge(
        "moves_deferred",
        "Moves that the last tick put off because its budget was used up.",
        ("queue",),
        {(report.queue,): report.deferred for report, _ in read},
    )


def _depths(read: Sequence[tuple[Report, Snapshot]]) -> Iterator[Metric]:
    yield gauge(
        "pending",
        "Messages in the front: those that workers can take now.",
        ("queue", "level"),
        {(report.queue, str(level)): shot.depths[level] for report, shot in read for level in range(len(shot.levels))},
    )
    yield gauge(
        "parked",
        "Messages in the overflow.",
        ("queue",),
        {(report.queue,): shot.overflow_depth for report, shot in read},
    )
    yield gauge(
        "held",
        "Messages that an operator holds.",
        ("queue",),
        {(report.queue,): shot.held_depth for report, shot in read},
    )
    yield gauge(
        "left_alone",
        "Messages that the add-on does not understand.",
        ("queue", "reason"),
        {(report.queue, reason): count for report, shot in read for reason, count in shot.foreign.items()},
    )


def _waits(read: Sequence[tuple[Report, Snapshot]]) -> Iterator[Metric]:
    yield gauge(
        "oldest_wait_seconds",
        "The longest wait of a task that is not held.",
        ("queue",),
        {(report.queue,): _longest(report, _all(shot)) for report, shot in read},
    )
    yield gauge(
        "level_oldest_wait_seconds",
        "The longest wait of a task by the level where it is now.",
        ("queue", "level"),
        {
            (report.queue, str(level)): _longest(report, pending)
            for report, shot in read
            for level, pending in enumerate(shot.levels)
        },
    )


def tasks(series: Mapping[SeriesKey, Series]) -> Iterator[Metric]:
    """Yield how long tasks waited and ran, and whether they started in time, as counted by workers."""
    yield histogram(
        "task_wait_seconds",
        "From publishing to start; not of tasks with an eta.",
        ("task", "level"),
        {_labels(key): each.waits for key, each in series.items() if any(each.waits.counts)},
    )
    yield histogram(
        "task_run_seconds",
        "From start to end.",
        ("task", "level"),
        {_labels(key): each.runs for key, each in series.items()},
    )
    starts: dict[Labels, float] = {}
    for key, each in series.items():
        for outcome, count in zip(("in_time", "late"), each.deadlines, strict=True):
            if any(each.deadlines):
                starts[key.task, outcome] = starts.get((key.task, outcome), 0.0) + count
    yield counter("deadlines", "Tasks with a deadline that started in time or late.", ("task", "outcome"), starts)


def objectives(standings: Sequence[Standing]) -> Iterator[Metric]:
    """Yield the state of the objectives."""
    labels: list[Labels] = [(standing.objective.name,) for standing in standings]
    attained = {
        label: standing.attained
        for label, standing in zip(labels, standings, strict=True)
        if standing.attained is not None
    }
    yield gauge(
        "objective_attainment_ratio",
        "The share of tasks in time, of those that started in the window and those that are overdue.",
        ("objective",),
        attained,
    )
    yield gauge(
        "objective_target_ratio",
        "The share that must be in time.",
        ("objective",),
        {label: standing.objective.target for label, standing in zip(labels, standings, strict=True)},
    )
    yield gauge(
        "objective_breached",
        "1 while the objective is breached.",
        ("objective",),
        {label: standing.since is not None for label, standing in zip(labels, standings, strict=True)},
    )


def use(seconds: Mapping[str, float]) -> Metric:
    """Return the use of worker time by fairness key."""
    ranked = sorted(seconds.items(), key=lambda item: (-item[1], item[0]))
    values: dict[Labels, float] = {}
    for place, (key, value) in enumerate(ranked):
        label = (clean(key) or NO_KEY) if place < MOST_KEYS else OTHER
        values[(label,)] = values.get((label,), 0.0) + value
    return gauge("use_seconds", "Decayed use of worker time by fairness key.", ("key",), values)


def _labels(key: SeriesKey) -> Labels:
    return key.task, NO_LEVEL if key.level is None else str(key.level)


def _all(snapshot: Snapshot) -> list[PendingTask]:
    # A copy of the overflow, in one step: the next tick changes it.
    return [task for tasks in (*snapshot.levels, list(snapshot.overflow.values())) for task in tasks]


def _longest(report: Report, pending: Sequence[PendingTask]) -> float:
    oldest = min((task.published for task in pending), default=report.started)
    return max(report.started - oldest, 0.0)
