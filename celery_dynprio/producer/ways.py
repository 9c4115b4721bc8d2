"""How plain calls of tasks were routed last, so that the next ones need not be routed again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from celery_dynprio.errors import OptionError
from celery_dynprio.message import HEADER
from celery_dynprio.producer.calls import Call
from celery_dynprio.producer.placement import Kind, Routing
from celery_dynprio.task import Doubt, TaskOptions
from celery_dynprio.task.keys import find_key
from celery_dynprio.tracing.context import current_or_deferred

#: The option of a call, and the name under which a route may give the same.
OPTION: Final = "dynprio"

#: The options that each task has, most of them None: to Celery that is as if they were left out, but takes longer.
_OF_TASKS: Final = frozenset(
    {
        "compression",
        "delivery_mode",
        "exchange",
        "expires",
        "immediate",
        "mandatory",
        "priority",
        "queue",
        "routing_key",
        "serializer",
    }
)

#: Options that change nothing of where a call goes, and nothing of its header; and the queue, by its own name.
_PLAIN: Final = frozenset({"compression", "delivery_mode", "immediate", "mandatory", "queue", "serializer"})


@dataclass(frozen=True, slots=True)
class Way:
    """How the last plain call of a task was routed: while nothing has changed, one with equal options goes the same.

    All that can be worked out before a call is here, because a publish pays dearly for each function and each object
    that it meets: what it does between two publishes has driven them from the processor's caches.
    """

    task: Any
    options: dict[str, Any]
    #: The managed queue, as Celery had it under this name.
    queue: Any
    name: str
    routing: Routing
    declared: TaskOptions
    #: What all such calls are published with, and what the header of each of them says.
    routed: dict[str, Any]
    header: dict[str, Any]
    kind: Kind

    @classmethod
    def of(cls, call: Call, options: Mapping[str, Any], queue: str, routing: Routing, declared: TaskOptions) -> Way:
        """Return the way of a plain call that Celery's router, given these ``options``, sent to this managed queue."""
        header = {} if declared.weight is None else {"w": declared.weight}
        kind = Kind(queue, call.name, header.get("w", 1.0), declared.deadline)
        routed = set_options(call.options)
        return cls(call.task, dict(options), routed["queue"], queue, routing, declared, routed, header, kind)

    def leads(self, celery: Any, options: Any, task: Any) -> bool:
        """Whether Celery's router, ``celery``, would send a call with these options the same way."""
        return (
            self.task is task
            and self.options == options
            and not celery.routes
            and celery.queues.get(self.name) is self.queue
            and current_or_deferred() is None  # in a task, its header may depend on that
        )

    def take(self, args: Sequence[Any], kwargs: Mapping[str, Any], now: float, doubt: Doubt) -> dict[str, Any]:
        """Return what a call at ``now`` (Unix seconds) is published with; ``doubt`` as in ``TaskOptions.fields``."""
        declared, header, routed, key = self.declared, self.header.copy(), self.routed.copy(), None
        if declared.deadline is not None:
            header["due"] = now + declared.deadline
        if declared.key is not None:
            try:
                key = find_key(self.kind.name, declared.key, args, kwargs)
            except OptionError as exc:
                doubt(exc)
            if key is not None:
                header["key"] = key
        header["at"] = now
        routed["headers"] = {HEADER: header}
        routed["priority"] = self.routing.placement.priority_of(self.kind, key, now)
        return routed


def set_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a call without those of its task that are not set."""
    return {option: value for option, value in options.items() if value is not None or option not in _OF_TASKS}


def is_plain(celery: Any, options: Mapping[str, Any], queue: str) -> bool:
    """Whether a call to this queue went there for the queue alone, and the task alone decides what its header says."""
    chosen = options.get("queue")
    if celery.routes or OPTION in options or not (chosen is None or (isinstance(chosen, str) and chosen == queue)):
        return False
    return all(value is None or option in _PLAIN for option, value in options.items())
