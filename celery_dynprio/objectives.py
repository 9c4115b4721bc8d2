"""Objectives: the share of some tasks that has to start in time, and what yields when it does not. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any, Final, Literal

from celery_dynprio.durations import EXAMPLES, Duration, seconds
from celery_dynprio.errors import ArgumentError

#: The shortest window over which attainment is measured, in seconds.
SHORTEST_WINDOW: Final = 10.0

#: The longest duration in a promise, in seconds: thirty years.
MOST_SECONDS: Final = 1e9

#: The most names of tasks whose matches are remembered.
MAX_NAMES: Final = 10_000


@dataclass(frozen=True, slots=True, init=False)
class Objective:
    """A promise: of the tasks that ``match``, the share ``target`` starts within ``within`` seconds of publication.

    What counts are the tasks that started in the last ``window`` seconds and those that have waited for longer than
    ``within`` already. The objective is breached while less than ``target`` of them is in time. It has recovered once
    their share is halfway between ``target`` and 1, so that it does not go back and forth.

    With ``on_breach="degrade"`` the reprioritizers keep ``expendable`` tasks in the overflow, out of the workers'
    reach, until it recovers. That spares tasks that a ``priority=`` or an operator pinned, and ends for each task once
    it has waited for ``hold_at_most`` seconds. As many expendable tasks run as leave the promised ones their slots, and
    all of them once nothing promised has come for a tenth of the window. ``hook`` is called with a :class:`Standing`
    at each breach and recovery.

    ``match`` and ``expendable`` are globs on the task's name, as in :mod:`fnmatch`, one or several. Raises
    :class:`~celery_dynprio.errors.ArgumentError` for a value that makes no sense.
    """

    name: str
    match: str | Sequence[str]
    #: Seconds above 0.
    within: float
    #: Above 0, at most 1.
    target: float
    #: Seconds, 10 or more.
    window: float
    on_breach: Literal["degrade"] | None
    expendable: str | Sequence[str]
    #: Seconds above 0.
    hold_at_most: float
    hook: Callable[[Standing], Any] | None

    def __init__(
        self,
        name: str,
        match: str | Sequence[str],
        within: Duration,
        target: float = 0.95,
        *,
        window: Duration = 300.0,
        on_breach: Literal["degrade"] | None = None,
        expendable: str | Sequence[str] = (),
        hold_at_most: Duration = 600.0,
        hook: Callable[[Standing], Any] | None = None,
    ) -> None:
        given = locals()
        for each in fields(self):
            object.__setattr__(self, each.name, given[each.name])
        self._check_all()

    def _check_all(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise self._error("name", "use a text to call it by")
        if not globs(self.match):
            raise self._error("match", 'use a glob on task names, such as "shop.*", or a list of them')
        self._read("within", "above 0")
        self._read("hold_at_most", "above 0")
        self._read("window", f"{SHORTEST_WINDOW:g} s or more", SHORTEST_WINDOW)
        if type(self.target) not in {int, float} or not 0 < self.target <= 1:
            raise self._error("target", "use a share above 0, at most 1")
        if self.on_breach not in {None, "degrade"}:
            raise self._error("on_breach", 'use "degrade" or None')
        if (self.on_breach is None) != (not globs(self.expendable)):
            raise self._error("expendable", 'use globs on task names with on_breach="degrade", and only with it')
        if self.hook is not None and not callable(self.hook):
            raise self._error("hook", "use a function that takes a Standing")

    @property
    def recovery(self) -> float:
        """The share that must be attained to recover from a breach."""
        return self.target + (1.0 - self.target) / 2

    def _read(self, name: str, allowed: str, least: float = 0.0) -> None:
        """Turn a duration into seconds."""
        found = seconds(getattr(self, name))
        if found is None or not least <= found <= MOST_SECONDS or found == 0:
            raise self._error(name, f"use {EXAMPLES}, {allowed}, at most {MOST_SECONDS:g} s")
        object.__setattr__(self, name, found)

    def _error(self, name: str, allowed: str) -> ArgumentError:
        return ArgumentError(f"Objective {self.name!r}: {name}", getattr(self, name), allowed)


@dataclass(frozen=True, slots=True)
class Standing:
    """How an objective stands now."""

    objective: Objective
    #: Tasks that started within the window, and how many of them were in time.
    started: int = 0
    in_time: int = 0
    #: Pending tasks that have waited too long already.
    overdue: int = 0
    #: When it was breached (Unix seconds); None if it is not breached.
    since: float | None = None
    #: Tasks that started per second lately.
    rate: float = 0.0

    @property
    def attained(self) -> float | None:
        """The share that was in time, 0 to 1; None if there was nothing."""
        known = self.started + self.overdue
        return self.in_time / known if known else None

    @property
    def is_breached(self) -> bool:
        """Whether its figures make it breached now; that depends on whether it was before."""
        attained = self.attained
        if attained is None:
            return False
        return attained < (self.objective.target if self.since is None else self.objective.recovery)


class Names:
    """Remembers which of several lists of globs a task's name matches."""

    def __init__(self, lists: Sequence[str | Sequence[str]]) -> None:
        self._lists = [globs(each) for each in lists]
        self._known: dict[str, tuple[int, ...]] = {}

    def matching(self, name: str) -> tuple[int, ...]:
        """Return the indexes of the lists with a glob that matches this name."""
        found = self._known.get(name)
        if found is None:
            if len(self._known) >= MAX_NAMES:  # names come from messages: many of them may cost time, but no memory
                self._known.clear()
            found = self._known[name] = tuple(
                index for index, each in enumerate(self._lists) if any(fnmatchcase(name, glob) for glob in each)
            )
        return found


def globs(value: object) -> tuple[str, ...]:
    """Return the globs that a user gave as one text or several; none if the value is neither."""
    if isinstance(value, str):
        return (value,) if value else ()
    if isinstance(value, Sequence) and all(isinstance(each, str) and each for each in value):
        return tuple(value)
    return ()
