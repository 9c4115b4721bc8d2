"""What a recording consists of: tasks as they arrived, and the slots that there were."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple, TypeAlias


class FailedTry(NamedTuple):
    """A run that ended in a retry."""

    #: Seconds that it ran.
    run: float
    #: Seconds after which the task was to run again.
    pause: float


class Task(NamedTuple):
    """One task of a recording. The replay reads the fields up to ``failed``; the others tell what really happened."""

    #: Unix seconds at which it was published.
    at: float
    name: str
    #: Seconds that its last try ran.
    run: float
    #: The fairness key, perhaps a hash of it; None if it has none.
    key: str | None = None
    #: Business importance, 0 to 10.
    weight: float = 1.0
    #: Seconds after publishing by which it should have started; None if it has no deadline.
    deadline: float | None = None
    #: Seconds after publishing before which it must not start; None if it may start at once.
    eta: float | None = None
    #: How many tasks wait for this one in its chain or chord.
    dependents: int = 0
    #: The level that an explicit ``priority=`` fixed; None if the policy decides.
    pinned: int | None = None
    #: Earlier tries, the first one first.
    failed: tuple[FailedTry, ...] = ()
    #: How the last try ended: "success", "failure" or "cancelled".
    outcome: str = "success"
    #: Seconds that it waited; None if unknown.
    waited: float | None = None
    #: The worker that ran it, and the level at which it was published and from which it was started; None if unknown.
    worker: str | None = None
    level: int | None = None
    start_level: int | None = None

    @property
    def work(self) -> float:
        """Seconds of a slot that all its tries take."""
        return self.run + sum(each.run for each in self.failed)


class Slots(NamedTuple):
    """From this moment on a worker has this many slots; 0 when it is gone."""

    #: Unix seconds.
    at: float
    worker: str
    slots: int


#: What a recording consists of, ordered by time.
Entry: TypeAlias = Task | Slots

#: A recording: each call reads it from its start, so that a long one need not be kept in memory.
Recording: TypeAlias = Callable[[], Iterator[Entry]]

#: A name under which a worker of the recording goes if it has none.
ANY_WORKER: Final = "worker"


class Extent(NamedTuple):
    """What is known of a recording after it was read once."""

    tasks: int
    #: Unix seconds at which the first and the last task were published.
    first: float
    last: float
    #: Seconds of slots that all tasks take.
    work: float
    #: Whether the recording says which slots there were.
    has_slots: bool

    @property
    def seconds(self) -> float:
        """Seconds between the first and the last task."""
        return self.last - self.first

    def load(self, slots: int) -> float:
        """The offered load: work over what the slots can do in the time in which tasks arrive. 1 is saturation."""
        return self.work / (slots * self.seconds) if self.seconds > 0 else 0.0


def extent(entries: Iterable[Entry]) -> Extent:
    """Read a recording and return what it comprises."""
    tasks, first, last, work, has_slots = 0, 0.0, 0.0, 0.0, False
    for entry in entries:
        if isinstance(entry, Slots):
            has_slots = True
            continue
        if not tasks:
            first = entry.at
        tasks, last, work = tasks + 1, entry.at, work + entry.work
    return Extent(tasks, first, last, work, has_slots)
