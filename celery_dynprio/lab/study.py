"""Plays one workload under several contenders, as often as there are seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from celery_dynprio.errors import ArgumentError
from celery_dynprio.lab.contenders import Contender
from celery_dynprio.lab.fidelity import Fidelity
from celery_dynprio.lab.measures import Measures, measures
from celery_dynprio.lab.recording import Entry, Extent, Recording, Slots, Task
from celery_dynprio.lab.replay import Fleet, replay
from celery_dynprio.lab.workload import Workload

#: So many classes are told apart; smaller ones are one.
MOST_CLASSES: Final = 12

OTHERS: Final = "(others)"

#: What may be the class of a task.
CLASSES: Final[dict[str, Callable[[Task], str]]] = {
    "name": lambda task: task.name,
    "weight": lambda task: f"weight {task.weight:g}",
    "key": lambda task: task.key or "(no key)",
}


@dataclass(frozen=True, slots=True)
class Study:
    """What came out: for each contender its figures by seed. Those of one seed belong together: one workload."""

    contenders: Sequence[Contender]
    figures: dict[str, Sequence[Measures]]
    #: What was played, of the first seed.
    extent: Extent
    fleet: Fleet
    tick: float
    #: Whether the blocks of the recording were drawn anew for each seed; False: it was played once, as it is.
    resampled: bool
    #: How faithful replays of this recording are; None if it is not one of ours.
    fidelity: Fidelity | None = None

    @property
    def seeds(self) -> int:
        """How often each contender played."""
        return len(next(iter(self.figures.values()), ()))


def study(
    workload: Workload,
    contenders: Sequence[Contender],
    fleet: Fleet,
    *,
    tick: float = 1.0,
    seeds: int = 1,
    by: str | Callable[[Task], str] = "name",
    progress: Callable[[], object] = lambda: None,
) -> Study:
    """Play the workload with each contender: once as it is, or with each of ``seeds`` (above 1) resampled.

    ``by`` is one of :data:`CLASSES`, or a function that tells the class of a task; ``progress`` is called after each
    replay. Raises :class:`~celery_dynprio.errors.ArgumentError` and :class:`~celery_dynprio.errors.RecordingError`.
    """
    found = workload.extent()
    if fleet.workers is None and not found.has_slots:
        raise ArgumentError("workers", None, "the recording does not say which there were; give their number")
    if fleet.workers is None and seeds > 1:
        raise ArgumentError("seeds", seeds, "a resampled recording has other times than its workers; give their number")
    group = classes(workload.recording, by) if isinstance(by, str) else by
    figures: dict[str, list[Measures]] = {contender.name: [] for contender in contenders}
    for entries in _workloads(workload, seeds):
        for contender in contenders:
            record = replay(entries(), contender.make(), fleet, tick=tick, group=group)
            figures[contender.name].append(measures(record))
            progress()
    return Study(contenders, dict(figures), found, fleet, tick, seeds > 1)


def classes(recording: Recording, by: str) -> Callable[[Task], str]:
    """The class of each task; only the :data:`MOST_CLASSES` with the most tasks are told apart."""
    of = CLASSES[by]
    counts = Counter(of(entry) for entry in recording() if not isinstance(entry, Slots))
    if len(counts) <= MOST_CLASSES:
        return of
    known = {name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[: MOST_CLASSES - 1]}

    def group(task: Task) -> str:
        name = of(task)
        return name if name in known else OTHERS

    return group


def _workloads(workload: Workload, seeds: int) -> Iterator[Callable[[], Iterable[Entry]]]:
    if seeds == 1:
        yield workload.recorded
        return
    tasks = workload.tasks()
    for seed in range(seeds):
        entries = list(workload.resampled(tasks, seed))
        yield partial(iter, entries)
