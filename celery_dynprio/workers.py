"""Which workers are up, and how many tasks of a queue they can run at once; asked of the workers themselves."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from celery import Celery

#: Seconds of silence after which no more answers are expected. Workers answer within milliseconds, but those of the
#: solo pool, which are silent while they run a task.
ANSWER_TIMEOUT: Final = 0.3


@dataclass(frozen=True, slots=True)
class Workers:
    """The workers that answered."""

    #: How many tasks each runs at once, by node name.
    slots: Mapping[str, int] = field(default_factory=dict)
    #: The queues that each takes from.
    queues: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def slots_for(self, queue: str) -> int:
        """How many tasks of this queue can run at once, if there are none of others."""
        return sum(slots for name, slots in self.slots.items() if queue in self.queues.get(name, ()))


def ask(app: Celery, timeout: float = ANSWER_TIMEOUT) -> Workers:
    """Ask all workers; takes ``timeout`` seconds longer than the last answer."""
    inspect = app.control.inspect(timeout=timeout)
    with ThreadPoolExecutor(2) as threads:
        stats, consumed = threads.submit(inspect.stats), threads.submit(inspect.active_queues)
    found: Mapping[str, Any] = stats.result() or {}
    queues: Mapping[str, Any] = consumed.result() or {}
    return Workers(
        {name: _slots(answer) for name, answer in sorted(found.items())},
        {name: frozenset(str(each.get("name")) for each in answer) for name, answer in queues.items()},
    )


def _slots(stats: Any) -> int:
    pool = stats.get("pool") if isinstance(stats, Mapping) else None
    slots = pool.get("max-concurrency") if isinstance(pool, Mapping) else None
    return slots if isinstance(slots, int) and slots > 0 else 1
