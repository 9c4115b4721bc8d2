"""What keeps the tasks of managed queues from being put in order, or from running at all. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from celery_dynprio import message, protocol1
from celery_dynprio.ports.health import Finding

#: What to do about messages that are left alone, by the reason.
_REMEDIES: Final = {
    message.TOO_LARGE: "keep large data in a store, and send its key",
    protocol1.TOO_LARGE: "keep large data in a store, and send its key",
    protocol1.NOT_JSON: "publish with task_protocol = 2, or serialize as JSON",
}
_STRANGE: Final = "Celery did not write them, so find out who does"


@dataclass(frozen=True, slots=True)
class Queue:
    """What was read of a managed queue."""

    name: str
    #: The workers that answered and take from it.
    workers: Sequence[str] = ()
    #: Whether tasks of this app are sent to it, as far as its settings tell.
    routed: bool = True
    #: Messages in the list of the queue's own name, in the front, and in the overflow.
    plain: int = 0
    front: int = 0
    overflow: int = 0
    #: Who leads it; "" if nobody does.
    leader: str = ""
    #: Messages that were looked at, and how many of them are left alone, by reason.
    sampled: int = 0
    foreign: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pause:
    """An operator stopped all moves: since when (a date and time), who, and why; "" where this is not known."""

    since: str = ""
    by: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What was read of all managed queues."""

    queues: Sequence[Queue]
    #: Queues that this app sends to or workers take from.
    known: Collection[str] = ()
    #: The workers that answered at all, and those of them that start a reprioritizer where none leads.
    workers: Collection[str] = ()
    candidates: Collection[str] = ()
    #: Workers without the add-on that take from a managed queue, and the unmanaged queues that they take from too.
    mixed: Mapping[str, Sequence[str]] = field(default_factory=dict)
    pause: Pause | None = None


def check_traffic(traffic: Traffic) -> list[Finding]:
    """Judge who takes from the managed queues, who leads them, and what waits there."""
    findings: list[Finding] = []
    for queue in traffic.queues:
        findings += [*_workers(queue, traffic), *_leader(queue, traffic), *_waiting(queue), *_foreign(queue)]
    for worker, others in sorted(traffic.mixed.items()):
        text = (
            f"takes from the unmanaged {', '.join(others)} as well, without the add-on: there every task comes before "
            "those that a managed queue has below its first level: load DynPrio in that worker, add the queue to "
            "dynprio_queues, or give it a worker of its own"
        )
        findings.append(Finding("warning", "turns", text, worker))
    return [*findings, *_paused(traffic.pause)]


def check_routes(queues: Iterable[str], known: Collection[str] | None) -> list[Finding]:
    """Judge names in ``dynprio_queues``; ``known`` are the queues that the app sends to, None if they are unknown."""
    return [_unrouted(queue, known) for queue in queues if known is not None and queue not in known]


def misspelt(name: str, known: Iterable[str]) -> str:
    """Return the queue that was probably meant by this name; "" if none is like it."""
    return next(iter(difflib.get_close_matches(name, [each for each in known if each != name], 1)), "")


def _workers(queue: Queue, traffic: Traffic) -> Iterable[Finding]:
    if queue.workers:
        count = len(queue.workers)
        yield Finding("ok", "queues", f"{queue.name}: {count} worker{'s' * (count > 1)}")
        return
    waits = queue.front + queue.overflow
    if not queue.routed:
        yield _unrouted(queue.name, traffic.known)
    elif traffic.workers:  # that none answered at all is one finding of its own
        command = f"celery -A proj worker -Q {queue.name}"
        text = f"{queue.name}: no worker that answered takes from it: start one with `{command}`"
        yield Finding("error" if waits else "warning", "queues", text)


def _unrouted(name: str, known: Iterable[str]) -> Finding:
    meant = misspelt(name, known)
    hint = f"did you mean {meant!r}?" if meant else "name one that tasks are sent to"
    text = f"dynprio_queues names {name!r}, to which this app sends nothing and from which no worker takes: {hint}"
    return Finding("error", "queues", text)


def _leader(queue: Queue, traffic: Traffic) -> Iterable[Finding]:
    if queue.leader:
        yield Finding("ok", "leader", f"{queue.name}: {queue.leader}")
    elif traffic.candidates:
        text = (
            f"{queue.name}: nobody leads yet, so no task is moved: a worker starts a reprioritizer within seconds; if "
            "none does, its log says why"
        )
        yield Finding("warning", "leader", text)
    else:
        text = (
            f"{queue.name}: nobody leads, and no worker that answered will, so no task is moved: run `celery -A proj "
            "dynprio run`"
        )
        yield Finding("error" if queue.front + queue.overflow else "warning", "leader", text)


def _waiting(queue: Queue) -> Iterable[Finding]:
    waits = queue.front + queue.overflow
    text = f"{queue.name}: {waits:,} tasks"
    if waits > queue.plain:
        text += (
            f", of which LLEN {queue.name} shows {queue.plain:,}: autoscalers and exporters should add up all its "
            "lists, or ask `celery -A proj dynprio count --json`"
        )
    yield Finding("ok", "waiting", text)


def _foreign(queue: Queue) -> Iterable[Finding]:
    for reason, count in queue.foreign.items():
        text = (
            f"{queue.name}: {count} of the {queue.sampled} messages looked at are left where they are: {reason}: "
            f"{_REMEDIES.get(reason, _STRANGE)}; `celery -A proj dynprio stats` counts all of them"
        )
        yield Finding("warning", "left alone", text)


def _paused(pause: Pause | None) -> Iterable[Finding]:
    if pause is None:
        yield Finding("ok", "moves", "not paused")
        return
    who = f" by {pause.by}" if pause.by else ""
    since = f" since {pause.since}" if pause.since else ""
    why = f" ({pause.why})" if pause.why else ""
    yield Finding(
        "warning", "moves", f"paused{who}{since}{why}, so no task is moved: run `celery -A proj dynprio resume`"
    )
