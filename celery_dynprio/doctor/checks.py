"""What in the settings of an app and its workers would spoil the order of pending tasks, and what to set instead. Pure.

:mod:`celery_dynprio.doctor.gather` reads what is judged here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from celery_dynprio.levels import steps_in
from celery_dynprio.ports.health import LARGEST_SKEW, Finding

#: Seconds; shorter visibility timeouts are warned of.
SHORTEST_VISIBILITY: Final = 300.0

#: kombu's own default, for processes that set none.
KOMBU_VISIBILITY: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What was read of workers and messages."""

    #: Our ``priority_steps``.
    steps: Sequence[int] = tuple(range(10))
    #: Those of our steps that workers without the add-on take from as well.
    plain: Sequence[int] = tuple(range(10))
    #: The settings of the workers that answered, by node name.
    workers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: Messages of managed queues where no process with our steps looks, by the broker's name of the place.
    unpolled: Mapping[str, int] = field(default_factory=dict)
    #: Messages where none of the workers that answered looks, likewise.
    stranded: Mapping[str, int] = field(default_factory=dict)
    #: Seconds by which a sampled message was published in the broker's future, at most.
    ahead: float = 0.0
    #: The longest learned mean runtime in seconds, and the task that has it.
    longest: tuple[float, str] | None = None


def check_conf(conf: Mapping[str, Any], whose: str = "this app") -> list[Finding]:
    """Judge Celery settings; ``whose`` names the process that has them."""
    options = conf.get("broker_transport_options") or {}
    late = bool(conf.get("task_acks_late"))
    return [
        *_prefetch(
            conf.get("worker_prefetch_multiplier", 4), whose, late=late, disabled=conf.get("worker_disable_prefetch")
        ),
        *_strategy(options.get("queue_order_strategy", "round_robin"), whose),
        *_visibility(options.get("visibility_timeout", KOMBU_VISIBILITY), whose, late=late),
    ]


def _prefetch(multiplier: int, whose: str, *, late: bool, disabled: object) -> Iterable[Finding]:
    if disabled or (multiplier == 1 and late):
        yield Finding("ok", "prefetch", "workers reserve no more than they run", whose)
        return
    if multiplier == 1:
        amount = "one more task a process, as they acknowledge a task when it starts"
    else:
        amount = "everything" if multiplier == 0 else f"{multiplier} tasks a process"
    yield Finding(
        "warning",
        "prefetch",
        f"worker_prefetch_multiplier = {multiplier}, so workers reserve {amount}; what is reserved can no longer be "
        "put in order: set worker_disable_prefetch = True (Celery 5.6 or newer), or worker_prefetch_multiplier = 1 "
        "together with task_acks_late = True",
        whose,
    )


def _strategy(strategy: object, whose: str) -> Iterable[Finding]:
    # kombu asks for level 0 of every queue before level 1 of any: the strategy decides between queues, in each level.
    if strategy == "round_robin":
        yield Finding("ok", "queue_order_strategy", "queues take turns within each level", whose)
        return
    yield Finding(
        "warning",
        "queue_order_strategy",
        f"queue_order_strategy = {strategy!r} lets one queue starve the others within each level: set "
        'broker_transport_options["queue_order_strategy"] = "round_robin"',
        whose,
    )


def _visibility(timeout: float, whose: str, *, late: bool) -> Iterable[Finding]:
    if timeout >= SHORTEST_VISIBILITY:
        yield Finding("ok", "visibility_timeout", f"{timeout:g} s", whose)
        return
    what = "that run, wait for their eta or are reserved" if late else "that wait for their eta or are reserved"
    yield Finding(
        "warning",
        "visibility_timeout",
        f"visibility_timeout = {timeout:g} s: Redis hands out tasks {what} longer than that a second time: "
        f'set broker_transport_options["visibility_timeout"] to at least {SHORTEST_VISIBILITY:g}, and above the '
        "longest eta, countdown" + (" and runtime" if late else ""),
        whose,
    )


def check_workers(
    workers: Mapping[str, Mapping[str, Any]], steps: Sequence[int], plain: Sequence[int] | None = None
) -> list[Finding]:
    """Judge the settings of the workers that answered.

    ``steps`` are this app's ``priority_steps``; ``plain`` are those that workers without the add-on take from as well,
    all of them if it is None.
    """
    findings: list[Finding] = []
    if not workers:
        text = "none of a managed queue answered, so their settings could not be compared: start them and ask again"
        findings.append(Finding("warning", "workers", text))
    for name, conf in sorted(workers.items()):
        findings += check_conf(conf, name)
        theirs = list(steps_in(conf))
        if theirs == list(steps):
            findings.append(Finding("ok", "priority_steps", "the same as here", name))
            continue
        if plain is not None and set(plain) < set(steps) and set(plain) <= set(theirs):
            text = (
                f"it takes from the priorities {theirs} only, so nothing is put into the levels in between, and the "
                "order is coarser: load DynPrio there too"
            )
            findings.append(Finding("warning", "priority_steps", text, name))
            continue
        text = (
            f"priority_steps = {theirs}, here {list(steps)}: it does not see tasks in the other levels: load "
            f'DynPrio there too, or set broker_transport_options["priority_steps"] = {list(steps)}'
        )
        findings.append(Finding("error", "priority_steps", text, name))
    return findings


def check_messages(facts: Facts, visibility: float, *, late: bool) -> list[Finding]:
    """Judge waiting messages and learned runtimes; ``late`` is ``task_acks_late``, ``visibility`` is in seconds."""
    findings = [
        Finding(
            "error",
            "priority_steps",
            f"{count} messages wait in {key!r}, which no worker with priority_steps = {list(facts.steps)} looks at: "
            "give every producer and worker the same priority_steps, and start a worker with the old ones to empty it",
        )
        for key, count in sorted(facts.unpolled.items())
    ]
    for key, count in sorted(facts.stranded.items()):
        text = (
            f"{count} messages wait in {key!r}, from which no worker that answers takes: run `celery -A proj dynprio "
            "drain`, which brings them to where all look, or start a worker with the add-on"
        )
        findings.append(Finding("error" if facts.workers else "warning", "stranded", text))
    if facts.ahead > LARGEST_SKEW:
        text = (
            f"a message was published {facts.ahead:.1f} s in the broker's future, so it looks younger than it is: "
            "synchronise the clocks of all producers with NTP"
        )
        findings.append(Finding("warning", "producers", text))
    if late and facts.longest is not None and facts.longest[0] > visibility:
        seconds, name = facts.longest
        text = (
            f"task {name} runs {seconds:.0f} s on average, longer than visibility_timeout = {visibility:g} s, and with "
            f'task_acks_late it is run again: set broker_transport_options["visibility_timeout"] above {seconds:.0f}'
        )
        findings.append(Finding("error", "visibility_timeout", text))
    return findings
