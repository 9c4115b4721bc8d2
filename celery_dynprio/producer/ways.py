"""How plain calls of tasks were routed last, so that the next ones need not be routed again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from celery_dynprio.producer.placement import Routing
from celery_dynprio.tracing.context import current_or_deferred

#: The option of a call, and the name under which a route may give the same.
OPTION: Final = "dynprio"

#: Options that change nothing of where a call goes, and nothing of its header; and the queue, by its own name.
_PLAIN: Final = frozenset({"compression", "delivery_mode", "immediate", "mandatory", "queue", "serializer"})


class Way(NamedTuple):
    """How the last plain call of a task was routed: while nothing has changed, one with equal options goes the same."""

    task: Any
    options: dict[str, Any]
    #: The managed queue, as Celery had it under this name.
    queue: Any
    name: str
    routing: Routing

    def leads(self, celery: Any, options: Any, task: Any, routing: Routing | None) -> bool:
        """Whether Celery's router, ``celery``, would send a call with these options the same way."""
        return (
            self.options == options
            and self.task is task is not None
            and self.routing is routing
            and not celery.routes
            and celery.queues.get(self.name) is self.queue
            and current_or_deferred() is None  # in a task, its header may depend on that
        )


def is_plain(celery: Any, options: Mapping[str, Any], queue: str) -> bool:
    """Whether a call to this queue went there for the queue alone, and the task alone decides what its header says."""
    chosen = options.get("queue")
    if celery.routes or OPTION in options or not (chosen is None or (isinstance(chosen, str) and chosen == queue)):
        return False
    return all(value is None or option in _PLAIN for option, value in options.items())
