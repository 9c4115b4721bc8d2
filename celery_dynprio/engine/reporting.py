"""What one tick saw and did, and the report of it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from celery_dynprio.models import Move, Outcome, PendingTask, Report, Role, Snapshot
from celery_dynprio.objectives import Standing

#: What stands for a queue that was not read.
_UNREAD: Final = Snapshot((), (), {})


@dataclass(frozen=True, slots=True)
class Look:
    """What was read, and what the guard found in it."""

    snapshot: Snapshot
    standings: Sequence[Standing] = ()
    turned: Sequence[Standing] = ()
    #: Whether a task is to be parked for an objective; None if none is.
    yields: Callable[[PendingTask], bool] | None = None
    #: The part of the overflow that does not yield.
    overflow: Mapping[str, PendingTask] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Work:
    """What was moved, or in a dry run planned."""

    moves: Sequence[Move] = ()
    outcomes: Sequence[Outcome] = ()
    deferred: int = 0
    spilled: int = 0
    traces: Mapping[str, str] = field(default_factory=dict)


def report_of(  # noqa: PLR0917 - what a tick is made of
    queue: str,
    role: Role,
    started: float,
    seconds: float,
    look: Look | None,
    work: Work,
    turned: Sequence[Standing],
) -> Report:
    """Return the report of a tick that began at ``started`` (Unix seconds) and took so many ``seconds``."""
    seen = look.snapshot if look else _UNREAD
    return Report(
        queue,
        role,
        started,
        seconds,
        read=sum(map(len, seen.levels)),
        front=sum(seen.depths),
        overflow=seen.overflow_depth,
        held=seen.held_depth,
        cancelled=seen.cancelled_depth,
        foreign=seen.foreign,
        moves=work.moves,
        outcomes=work.outcomes,
        deferred=work.deferred,
        spilled=work.spilled,
        snapshot=look.snapshot if look else None,
        traces=work.traces,
        standings=look.standings if look else (),
        turned=turned,
        held_back=len(seen.overflow) - len(look.overflow) if look else 0,
    )
