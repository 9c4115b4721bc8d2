"""What waits and what runs at one moment, as far as it decides on who starts when. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from celery_dynprio.engine.ordering import Turn
from celery_dynprio.models import Context, PendingTask


class Taken(NamedTuple):
    """A task that a worker has."""

    task: PendingTask
    #: Unix seconds at which its run began; None if it is reserved, so that it starts before anything that is pending.
    since: float | None


@dataclass(frozen=True, slots=True)
class Scene:
    """One queue, and the workers that take from it."""

    queue: str
    context: Context
    #: The tasks that have a turn, in order: none that is held, by an operator or for an objective.
    turns: Sequence[Turn]
    #: By worker: how many tasks it runs at once, how many it takes ahead beside them, and those that it has.
    slots: Mapping[str, int]
    ahead: Mapping[str, int] = field(default_factory=dict)
    taken: Mapping[str, Sequence[Taken]] = field(default_factory=dict)
    #: How many pending tasks were left out because there are too many.
    left_out: int = 0
