"""Google's Borg traces of 2019 (Tirmazi et al. 2020): the table ``instance_events``, exported as CSV with a header.

Read are ``time`` (microseconds), ``type`` (a number or its name: SUBMIT 0, SCHEDULE 3, EVICT 4, FAIL 5, FINISH 6,
KILL 7, LOST 8), ``collection_id``, ``instance_index`` and ``priority``; ``user`` and ``collection_logical_name`` of
the table ``collection_events``, if they were joined to it. Left out are events that the trace could not see, at time 0
or 2**63-1, and instances that did not end. An eviction is a failed try.

The user becomes the key (without one, the collection does), and the tier of the priority the weight: free 0 to 99,
best effort batch to 115, mid to 119, production to 359, monitoring above. ``--tiers`` overrides it. All tasks of the
file are kept in memory, to be put in the order of their submission.

https://github.com/google/cluster-data
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from celery_dynprio.errors import RecordingError
from celery_dynprio.lab.formats.files import rows
from celery_dynprio.lab.recording import FailedTry, Task
from celery_dynprio.lab.users import Users

_NEEDED: Final = ("time", "type", "collection_id", "instance_index", "priority")
_TYPES: Final = {"0": "SUBMIT", "3": "SCHEDULE", "4": "EVICT", "5": "FAIL", "6": "FINISH", "7": "KILL", "8": "LOST"}
_ENDS: Final = {"FINISH": "success", "FAIL": "failure", "KILL": "cancelled", "LOST": "failure"}
_NEVER: Final = 2**63 - 1
#: The lowest priority of each tier but the first, and the weight of each.
_TIERS: Final = (100, 116, 120, 360)
_WEIGHTS: Final = (1.0, 2.0, 4.0, 8.0, 10.0)
_NAME, _USER = "collection_logical_name", "user"


@dataclass(slots=True)
class _Instance:
    submitted: int
    name: str
    key: str
    weight: float
    deadline: float | None
    started: int | None = None
    waited: int | None = None
    failed: list[FailedTry] = field(default_factory=list)

    def start(self, at: int) -> None:
        if self.waited is None:
            self.waited = at - self.submitted
        self.started = at

    def evict(self, at: int) -> None:
        if self.started is not None:  # how long it waits to run again, the replay says
            self.failed.append(FailedTry((at - self.started) / 1e6, 0.0))
            self.started = None

    def task(self, ended: int, started: int, outcome: str) -> Task:
        return Task(
            self.submitted / 1e6,
            self.name,
            (ended - started) / 1e6,
            self.key,
            self.weight,
            self.deadline,
            failed=tuple(self.failed),
            outcome=outcome,
            waited=None if self.waited is None else self.waited / 1e6,
        )


def read(path: Path, users: Users) -> Iterator[Task]:
    """Yield the instances by the time of their submission; raises :class:`~celery_dynprio.errors.RecordingError`."""
    yield from sorted(_tasks(path, users), key=lambda task: task.at)


def _tasks(path: Path, users: Users) -> Iterator[Task]:
    instances: dict[tuple[str, str], _Instance] = {}
    for line, row in rows(path, _NEEDED):
        try:
            at, kind = int(row["time"]), _TYPES.get(row["type"], row["type"])
            weight = _WEIGHTS[bisect_right(_TIERS, int(row["priority"]))]
        except ValueError as exc:
            raise RecordingError(path, str(exc), line) from exc
        if not 0 < at < _NEVER:
            continue
        name = (row["collection_id"], row["instance_index"])
        if kind == "SUBMIT":
            instances.setdefault(name, _Instance(at, *_described(row, weight, users)))
            continue
        instance = instances.get(name)
        if instance is not None and kind == "SCHEDULE":
            instance.start(at)
        elif instance is not None and kind == "EVICT":
            instance.evict(at)
        elif instance is not None and kind in _ENDS:
            del instances[name]
            if instance.started is not None:
                yield instance.task(at, instance.started, _ENDS[kind])


def _described(row: Mapping[str, str], weight: float, users: Users) -> tuple[str, str, float, float | None]:
    """The name, key, weight and deadline of an instance."""
    collection = f"collection-{row['collection_id']}"
    user = row.get(_USER) or collection
    tier = users.tier(user)
    name, key = row.get(_NAME) or collection, users.key(user)
    return (name, key, weight, None) if tier is None else (name, key, tier.weight, tier.deadline)
