"""What is played of a recording: at which load, with which mean run time, and in which order of its blocks."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from celery_dynprio.errors import ArgumentError
from celery_dynprio.lab.recording import Entry, Extent, FailedTry, Recording, Slots, Task, extent

#: Into so many blocks a recording is cut to be resampled.
BLOCKS: Final = 20


@dataclass(frozen=True, slots=True)
class Workload:
    """A recording as it is played.

    ``slots`` is how many slots ``load`` is about; ``load`` (None: as recorded) stretches the time between arrivals,
    ``mean_run`` (seconds; None: as recorded) the run times, and ``limit`` (None: all) is how many tasks are played.
    """

    recording: Recording
    slots: int | None = None
    load: float | None = None
    mean_run: float | None = None
    limit: int | None = None

    def recorded(self) -> Iterator[Entry]:
        """The recording in its own order, scaled; read from its source and not kept."""
        return self._scaled(self._limited(), extent(self._limited()))

    def resampled(self, tasks: Sequence[Task], seed: int) -> Iterator[Entry]:
        """The blocks of a recording in an order drawn at random, scaled; the same for the same seed."""
        drawn = resample(tasks, seed)
        return self._scaled(drawn, extent(drawn))

    def tasks(self) -> list[Task]:
        """All tasks, kept in memory to be resampled."""
        return [entry for entry in self._limited() if isinstance(entry, Task)]

    def extent(self) -> Extent:
        """What is played, before it is resampled."""
        return extent(self.recorded())

    def _limited(self) -> Iterator[Entry]:
        left = self.limit
        for entry in self.recording():
            if isinstance(entry, Task) and left is not None:
                if not left:
                    return
                left -= 1
            yield entry

    def _scaled(self, entries: Iterable[Entry], found: Extent) -> Iterator[Entry]:
        if not found.tasks:
            raise ArgumentError("recording", "", "there is no task in it")
        run = 1.0 if self.mean_run is None else self._factor(found.work, self.mean_run * found.tasks)
        stretch = 1.0
        if self.load is not None and self.slots is not None:
            stretch = self._factor(self.slots * self.load * found.seconds, found.work * run)
        for entry in entries:
            at = found.first + (entry.at - found.first) * stretch
            if isinstance(entry, Slots) or run == 1.0:
                yield entry._replace(at=at)
            else:
                failed = tuple(FailedTry(each.run * run, each.pause) for each in entry.failed)
                yield entry._replace(at=at, run=entry.run * run, failed=failed)

    def _factor(self, what: float, wanted: float) -> float:
        if what <= 0:
            raise ArgumentError("recording", "", "its tasks came all at once or ran for no time: it cannot be scaled")
        return wanted / what


def resample(tasks: Sequence[Task], seed: int) -> list[Task]:
    """As many tasks, in blocks that begin anywhere: the circular block bootstrap (Politis and Romano 1992).

    Within a block the tasks keep their order and the time between them, so bursts stay bursts.
    """
    count = len(tasks)
    gaps = [later.at - earlier.at for earlier, later in pairwise(tasks)]
    gaps.insert(0, sum(gaps) / len(gaps) if gaps else 0.0)
    length = max(-(-count // BLOCKS), 1)
    drawn = random.Random(seed)  # noqa: S311 - a simulation
    found: list[Task] = []
    at = tasks[0].at if tasks else 0.0
    while len(found) < count:
        start = drawn.randrange(count)
        for index in range(start, start + min(length, count - len(found))):
            at += gaps[index % count] if found else 0.0
            found.append(tasks[index % count]._replace(at=at))
    return found
