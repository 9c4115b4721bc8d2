"""The Azure Functions trace of 2019 (Shahrad et al. 2020): two CSV files for each day.

``invocations_per_function_md.anon.dNN.csv``: HashOwner, HashApp, HashFunction, Trigger, and the columns 1 to 1440, the
invocations in each minute. ``function_durations_percentiles.anon.dNN.csv``: HashOwner, HashApp, HashFunction, Average,
Count, Minimum, Maximum, and percentile_Average_0, _1, _25, _50, _75, _99 and _100, all in milliseconds.

An owner becomes the user and a function the task. Where in its minute an invocation comes and how long it runs are
drawn at random, from these percentiles with straight lines between them; a function without durations is left out. The
files of a whole day are large: ``sample`` reads that share of the functions, always the same ones.

https://github.com/Azure/AzurePublicDataset
"""

from __future__ import annotations

import random
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from celery_dynprio.errors import RecordingError
from celery_dynprio.lab.formats.files import number, rows
from celery_dynprio.lab.recording import Task
from celery_dynprio.lab.users import Tier, Users, share_of

_MINUTES: Final = 1440
_PERCENTILES: Final = (0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0)
_COLUMNS: Final = [f"percentile_Average_{100 * each:.0f}" for each in _PERCENTILES]
_INVOCATIONS, _DURATIONS = "invocations_per_function_md", "function_durations_percentiles"
#: Characters of the hash of a function that are enough to tell it from others.
_SHORT: Final = 12


class _Function(NamedTuple):
    name: str
    key: str
    tier: Tier | None
    #: Seconds at each of the percentiles.
    runs: Sequence[float]


def durations_beside(invocations: Path) -> Path:
    """The file with the durations that belongs to one with invocations, by the names of the public files."""
    return invocations.with_name(invocations.name.replace(_INVOCATIONS, _DURATIONS))


def read(
    invocations: Path, users: Users, durations: Path | None = None, *, sample: float = 1.0, seed: int = 0
) -> Iterator[Task]:
    """Yield the invocations of a day that begins at second 0; raises :class:`~celery_dynprio.errors.RecordingError`.

    In memory are the functions and, for each minute, those that were invoked in it.
    """
    runs = _runs(durations or durations_beside(invocations), sample)
    functions: list[_Function] = []
    minutes = [(array("I"), array("I")) for _ in range(_MINUTES)]
    for owner, function, counts in _invoked(invocations, runs):
        for minute, count in enumerate(counts):
            if count:
                minutes[minute][0].append(len(functions))
                minutes[minute][1].append(count)
        functions.append(_Function(function[:_SHORT], users.key(owner), users.tier(owner), runs[function]))
    drawn = random.Random(seed)  # noqa: S311 - a simulation
    for minute, (which, counts) in enumerate(minutes):
        tasks = [
            _draw(functions[index], 60.0 * minute, drawn)
            for index, count in zip(which, counts, strict=True)
            for _ in range(count)
        ]
        yield from sorted(tasks)


def _draw(function: _Function, start: float, drawn: random.Random) -> Task:
    at, tier = start + 60.0 * drawn.random(), function.tier
    run = _quantile(function.runs, drawn.random())
    return Task(at, function.name, run, function.key, tier.weight if tier else 1.0, tier.deadline if tier else None)


def _quantile(runs: Sequence[float], share: float) -> float:
    above = min(bisect_right(_PERCENTILES, share), len(_PERCENTILES) - 1)
    low, high = _PERCENTILES[above - 1], _PERCENTILES[above]
    return runs[above - 1] + (share - low) / (high - low) * (runs[above] - runs[above - 1])


def _runs(path: Path, sample: float) -> Mapping[str, Sequence[float]]:
    found: dict[str, Sequence[float]] = {}
    for line, row in rows(path, ["HashFunction", *_COLUMNS]):
        if share_of("sample", row["HashFunction"]) < sample:
            try:
                found[row["HashFunction"]] = [max(number(row[column]), 0.0) / 1000 for column in _COLUMNS]
            except ValueError as exc:
                raise RecordingError(path, str(exc), line) from exc
    return found


def _invoked(path: Path, runs: Mapping[str, Sequence[float]]) -> Iterator[tuple[str, str, Sequence[int]]]:
    columns = [str(minute) for minute in range(1, _MINUTES + 1)]
    for line, row in rows(path, ["HashOwner", "HashFunction", *columns]):
        if row["HashFunction"] in runs:
            try:
                yield row["HashOwner"], row["HashFunction"], [int(row[column]) for column in columns]
            except ValueError as exc:
                raise RecordingError(path, str(exc), line) from exc
