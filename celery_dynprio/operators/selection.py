"""Which pending tasks an operator means. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields
from fnmatch import fnmatchcase

from celery_dynprio.durations import EXAMPLES, Duration, seconds
from celery_dynprio.errors import ArgumentError
from celery_dynprio.models import HELD, PendingTask, Place


@dataclass(frozen=True, slots=True, init=False)
class Filter:
    """Pending tasks that are all of what is given; without anything, all of them.

    Raises :class:`~celery_dynprio.errors.ArgumentError` for a value that cannot be meant.
    """

    #: The task's name, with ``*``, ``?`` and ``[...]`` as in a shell.
    task: str | None
    #: The fairness key.
    key: str | None
    #: The level in which they wait; what is parked is in none.
    level: int | None
    #: The trace id (32 hexadecimal digits) that their messages carry.
    trace: str | None
    #: Seconds for which they have waited, at least.
    older: float | None
    #: The managed queue.
    queue: str | None
    #: Only tasks that an operator holds (True), or only others (False).
    held: bool | None

    def __init__(
        self,
        *,
        task: str | None = None,
        key: str | None = None,
        level: int | None = None,
        trace: str | None = None,
        older: Duration | None = None,
        queue: str | None = None,
        held: bool | None = None,
    ) -> None:
        waited = None if older is None else seconds(older)
        if older is not None and (waited is None or waited < 0):
            raise ArgumentError("older", older, f"use {EXAMPLES}, 0 or above")
        given = {**locals(), "older": waited}
        for each in fields(self):
            object.__setattr__(self, each.name, given[each.name])
        self._check()

    def _check(self) -> None:
        if self.level is not None and (type(self.level) is not int or not 0 <= self.level <= 9):  # noqa: PLR2004 - AMQP's ten levels
            raise ArgumentError("level", self.level, "use a level from 0, the first, to 9")
        if self.trace is not None and (len(self.trace) != 32 or set(self.trace) - set("0123456789abcdef")):  # noqa: PLR2004 - W3C
            raise ArgumentError("trace", self.trace, "use the 32 hexadecimal digits of a trace id, in lower case")

    @property
    def selective(self) -> bool:
        """Whether it looks at the tasks at all; a queue alone does not."""
        return any(value is not None for value in (self.task, self.key, self.level, self.trace, self.older, self.held))

    def matches(self, task: PendingTask, place: Place, now: float) -> bool:
        """Tell whether a task is meant; ``now`` in Unix seconds. Queue and trace are up to whoever reads messages."""
        return (
            (self.task is None or fnmatchcase(task.name, self.task))
            and (self.key is None or task.key == self.key)
            and (self.level is None or place == self.level)
            and (self.older is None or now - task.published >= self.older)
            and (self.held is None or (place == HELD) is self.held)
        )
