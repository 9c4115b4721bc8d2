"""Figures of one replay. Pure. Seconds unless said otherwise."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul
from typing import Final, NamedTuple

from celery_dynprio.lab.record import Record

#: A run shorter than this (seconds) counts as this long in a slowdown, so that tiny tasks do not dominate
#: (bounded slowdown; Feitelson et al. 1997).
TAU: Final = 10.0

#: Time is cut into so many parts to show how waits go over it.
PARTS: Final = 60

#: The quantiles that a distribution is drawn with: ever finer towards the long waits.
CURVE: Final = (*(each / 50 for each in range(50)), 0.985, 0.99, 0.995, 0.999, 1.0)


class Distribution(NamedTuple):
    """Waits of many tasks."""

    tasks: int
    mean: float
    p50: float
    p95: float
    p99: float
    longest: float


@dataclass(frozen=True, slots=True)
class KeyFigures:
    """How one key fared."""

    tasks: int
    #: Seconds of slots that its tasks took.
    work: float
    wait: float
    #: The mean bounded slowdown.
    slowdown: float


@dataclass(frozen=True, slots=True)
class Measures:
    """Figures of one replay of one discipline."""

    wait: Distribution
    #: The mean wait, where each task counts by its weight.
    weighted_wait: float
    #: The mean bounded slowdown: (wait + run) / max(run, TAU), at least 1.
    slowdown: float
    #: Jain's index (1984) on the mean slowdowns of the keys: 1 if all keys fare alike, 1/n if one of n bears it all.
    fairness: float
    #: Of the tasks with a deadline, the share that started by then, and by how much the others were late, where each
    #: counts by its weight; None if no task has one.
    in_time: float | None
    tardiness: float | None
    #: Slot-seconds in which a slot was idle while tasks waited, as a share of all.
    idle: float
    #: How busy the slots were, in [0, 1].
    utilization: float
    #: The mean number of tasks that waited.
    pending: float
    moves_per_task: float
    #: The broker's seconds for moves, as a share of the time that the replay covers.
    broker_load: float
    unfinished: int
    groups: dict[str, Distribution]
    #: For each class with deadlines: the share that started in time.
    groups_in_time: dict[str, float]
    keys: dict[str, KeyFigures]
    #: Waits at each of :data:`CURVE`, by class; "" is all.
    curves: dict[str, Sequence[float]]
    #: Mean waits of the tasks published in each part of the time; None where there were none.
    timeline: Sequence[float | None]


def measures(record: Record) -> Measures:
    """Work out the figures of a replay."""
    waits, offered = record.wait, record.offered
    slowdowns = array("d", map(bounded_slowdown, waits, record.run))
    keys = _keys(record, slowdowns)
    overall, curve = _described(waits)
    groups = {group: _described(values) for group, values in _by(record.group, waits, record.groups).items()}
    in_time, tardiness = _punctuality(record)
    return Measures(
        overall,
        weighted_mean(waits, record.weight),
        mean(slowdowns),
        jain([each.slowdown for each in keys.values()]),
        in_time,
        tardiness,
        record.idle / offered if offered else 0.0,
        record.busy / offered if offered else 0.0,
        record.pending,
        record.moves / len(record) if len(record) else 0.0,
        record.broker_seconds / record.seconds if record.seconds else 0.0,
        record.unfinished,
        {group: described for group, (described, _) in groups.items()},
        _in_time(record),
        keys,
        {"": curve, **{group: drawn for group, (_, drawn) in groups.items()}},
        _timeline(record),
    )


def _described(values: Sequence[float]) -> tuple[Distribution, Sequence[float]]:
    ordered = array("d", sorted(values))
    return distribution(ordered), [quantile(ordered, share) for share in CURVE] if ordered else []


def _punctuality(record: Record) -> tuple[float | None, float | None]:
    """The share of tasks that started in time, and the weighted tardiness; None and None without deadlines."""
    late, weights = array("d"), array("d")
    for seconds, weight in zip(record.late, record.weight, strict=True):
        if not math.isnan(seconds):
            late.append(seconds)
            weights.append(weight)
    if not late:
        return None, None
    return sum(seconds <= 0 for seconds in late) / len(late), weighted_mean([max(each, 0.0) for each in late], weights)


def distribution(ordered: Sequence[float]) -> Distribution:
    """Describe values that are sorted; all are 0 if there are none."""
    if not ordered:
        return Distribution(0, 0.0, 0.0, 0.0, 0.0, 0.0)
    p50, p95, p99 = (quantile(ordered, share) for share in (0.5, 0.95, 0.99))
    return Distribution(len(ordered), mean(ordered), p50, p95, p99, ordered[-1])


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest of the sorted values that so large a share of them does not exceed (nearest rank)."""
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1]


def mean(values: Sequence[float]) -> float:
    """The mean; 0 of nothing."""
    return math.fsum(values) / len(values) if len(values) else 0.0


def weighted_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """The mean, where each value counts by its weight; the plain one if no weight is above 0."""
    total = math.fsum(weights)
    if total <= 0:
        return mean(values)
    return math.fsum(map(mul, values, weights)) / total


def bounded_slowdown(wait: float, run: float, tau: float = TAU) -> float:
    """How much longer a task took than it had to, where a run shorter than ``tau`` counts as that long; at least 1."""
    return max((wait + run) / max(run, tau), 1.0)


def jain(values: Sequence[float]) -> float:
    """Jain's fairness index (1984) of values of at least 0: in [1/n, 1]; 1 if all are alike or there are none."""
    largest = max(values, default=0.0)
    if largest <= 0:
        return 1.0
    scaled = [value / largest for value in values]  # so that no square is too small or too large
    return math.fsum(scaled) ** 2 / (len(scaled) * math.fsum(value * value for value in scaled))


def _by(which: Sequence[int], values: Sequence[float], names: dict[str, int]) -> dict[str, array[float]]:
    parted = [array("d") for _ in names]
    for index, value in zip(which, values, strict=True):
        parted[index].append(value)
    return {name: parted[index] for name, index in names.items()}


def _keys(record: Record, slowdowns: Sequence[float]) -> dict[str, KeyFigures]:
    runs, waits, slow = (_by(record.owner, each, record.owners) for each in (record.run, record.wait, slowdowns))
    return {
        key: KeyFigures(len(waits[key]), math.fsum(runs[key]), mean(waits[key]), mean(slow[key]))
        for key in record.owners
    }


def _in_time(record: Record) -> dict[str, float]:
    late = _by(record.group, record.late, record.groups)
    with_deadline = {group: sum(not math.isnan(each) for each in values) for group, values in late.items()}
    return {group: sum(each <= 0 for each in late[group]) / tasks for group, tasks in with_deadline.items() if tasks}


def _timeline(record: Record) -> Sequence[float | None]:
    if not len(record):
        return [None] * PARTS
    first, last = min(record.at), max(record.at)
    sums, counts = [0.0] * PARTS, [0] * PARTS
    for at, wait in zip(record.at, record.wait, strict=True):
        part = min(int((at - first) / (last - first) * PARTS), PARTS - 1) if last > first else 0
        sums[part] += wait
        counts[part] += 1
    return [total / tasks if tasks else None for total, tasks in zip(sums, counts, strict=True)]
