"""What in a deployment would spoil the order of pending tasks, and what to set instead. Pure.

:mod:`celery_dynprio.doctor` gathers what is judged here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from celery_dynprio.message import steps_in

#: The oldest Redis (or the Redis that a Valkey says it is compatible with).
OLDEST_REDIS: Final = (6, 2)

#: Seconds: clocks may differ by so much, and shorter visibility timeouts are warned of.
LARGEST_SKEW: Final = 1.0
SHORTEST_VISIBILITY: Final = 300.0

#: kombu's own default, for processes that set none.
KOMBU_VISIBILITY: Final = 3600.0

Level: TypeAlias = Literal["error", "warning", "ok"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of a check: ``error`` breaks the order, ``warning`` may, ``ok`` is as it should be."""

    level: Level
    check: str
    #: What is so, and if it is not well, what to set.
    text: str


@dataclass(frozen=True, slots=True)
class Broker:
    """What a Redis tells about itself."""

    version: str
    #: Its ``maxmemory-policy``; empty if it does not say.
    eviction: str = "noeviction"
    aof: bool = True
    #: Its ``save`` setting; None if it must not be asked.
    snapshots: str | None = None
    #: How many seconds its clock is ahead of this host's.
    skew: float = 0.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What was read of a deployment."""

    broker: Broker
    #: Our ``priority_steps``, and by worker name those of the workers that answered.
    steps: Sequence[int] = tuple(range(10))
    #: Those of our steps that workers without the add-on take from as well.
    plain: Sequence[int] = tuple(range(10))
    workers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: By Redis key: messages of managed queues where no process with our steps looks.
    unpolled: Mapping[str, int] = field(default_factory=dict)
    #: By Redis key: messages where none of the workers that answered takes from.
    stranded: Mapping[str, int] = field(default_factory=dict)
    #: The farthest that a sampled message was published in the broker's future, in seconds.
    ahead: float = 0.0
    #: The longest learned mean runtime in seconds, and the task that has it.
    longest: tuple[float, str] | None = None


def check_conf(conf: Mapping[str, Any], whose: str = "this app") -> list[Finding]:
    """Judge Celery settings; ``whose`` names the process that has them."""
    options = conf.get("broker_transport_options") or {}
    return [
        *_prefetch(conf.get("worker_prefetch_multiplier", 4), bool(conf.get("worker_disable_prefetch")), whose),
        *_strategy(options.get("queue_order_strategy", "round_robin"), whose),
        *_visibility(options.get("visibility_timeout", KOMBU_VISIBILITY), bool(conf.get("task_acks_late")), whose),
    ]


def _prefetch(multiplier: int, disabled: bool, whose: str) -> Iterable[Finding]:  # noqa: FBT001 - a setting's value
    if multiplier == 1 or disabled:
        yield Finding("ok", "prefetch", f"{whose}: workers reserve no more than they are about to run")
        return
    amount = "everything" if multiplier == 0 else f"{multiplier} tasks a process"
    yield Finding(
        "warning",
        "prefetch",
        f"{whose}: worker_prefetch_multiplier = {multiplier}, so workers reserve {amount}, and what is reserved can no "
        "longer be put in order: set worker_prefetch_multiplier = 1",
    )


def _strategy(strategy: object, whose: str) -> Iterable[Finding]:
    # kombu asks for level 0 of every queue before level 1 of any: the strategy decides between queues, in each level.
    if strategy == "round_robin":
        yield Finding("ok", "queue_order_strategy", f"{whose}: queues take turns within each level")
        return
    yield Finding(
        "warning",
        "queue_order_strategy",
        f"{whose}: queue_order_strategy = {strategy!r} lets one queue starve the others within each level: set "
        'broker_transport_options["queue_order_strategy"] = "round_robin"',
    )


def _visibility(timeout: float, late: bool, whose: str) -> Iterable[Finding]:  # noqa: FBT001 - a setting's value
    if timeout >= SHORTEST_VISIBILITY:
        yield Finding("ok", "visibility_timeout", f"{whose}: {timeout:g} s")
        return
    what = "that run, wait for their eta or are reserved" if late else "that wait for their eta or are reserved"
    yield Finding(
        "warning",
        "visibility_timeout",
        f"{whose}: visibility_timeout = {timeout:g} s: Redis hands out tasks {what} longer than that a second time: "
        f'set broker_transport_options["visibility_timeout"] to at least {SHORTEST_VISIBILITY:g}, and above the '
        "longest eta, countdown" + (" and runtime" if late else ""),
    )


def check_broker(broker: Broker) -> list[Finding]:
    """Judge what a Redis tells about itself."""
    return [*_version(broker.version), *_eviction(broker.eviction), *_persistence(broker), *_skew(broker.skew)]


def _version(version: str) -> Iterable[Finding]:
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    oldest = ".".join(map(str, OLDEST_REDIS))
    if numbers >= OLDEST_REDIS:
        yield Finding("ok", "redis", f"version {version}")
    else:
        yield Finding("error", "redis", f"version {version or '(unknown)'}: use Redis {oldest} or newer, or Valkey")


def _eviction(policy: str) -> Iterable[Finding]:
    if policy in {"noeviction", ""}:
        yield Finding("ok", "maxmemory-policy", policy or "not told")
        return
    yield Finding(
        "warning",
        "maxmemory-policy",
        f"{policy}: when memory is short the broker drops pending tasks: set maxmemory-policy noeviction in redis.conf",
    )


def _persistence(broker: Broker) -> Iterable[Finding]:
    if broker.aof:
        yield Finding("ok", "persistence", "append-only file")
    elif broker.snapshots == "":
        text = "none: a restart of the broker loses everything that is pending: set appendonly yes in redis.conf"
        yield Finding("warning", "persistence", text)
    else:
        text = "snapshots only: a crash loses what came since the last one; appendonly yes in redis.conf keeps it"
        yield Finding("ok", "persistence", text)


def _skew(skew: float) -> Iterable[Finding]:
    if abs(skew) <= LARGEST_SKEW:
        yield Finding("ok", "clock", f"{skew:+.1f} s between the broker and this host")
        return
    yield Finding(
        "warning",
        "clock",
        f"the broker's clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this host's, so ages and "
        "deadlines are off by as much: synchronise both with NTP",
    )


def check_workers(
    workers: Mapping[str, Mapping[str, Any]], steps: Sequence[int], plain: Sequence[int] | None = None
) -> list[Finding]:
    """Judge the settings of the workers that answered.

    ``steps`` are this app's ``priority_steps``, and ``plain`` those of them from which workers without the add-on take
    as well (None: all).
    """
    findings: list[Finding] = []
    if not workers:
        text = "none of a managed queue answered, so their settings could not be compared: start them and ask again"
        findings.append(Finding("warning", "workers", text))
    for name, conf in sorted(workers.items()):
        findings += check_conf(conf, name)
        theirs = list(steps_in(conf))
        if theirs == list(steps):
            findings.append(Finding("ok", "priority_steps", f"{name}: the same as here"))
            continue
        if plain is not None and set(plain) < set(steps) and set(plain) <= set(theirs):
            text = (
                f"{name}: it takes from the priorities {theirs} only, so nothing is put into the levels in between, "
                "and the order is coarser: load DynPrio there too"
            )
            findings.append(Finding("warning", "priority_steps", text))
            continue
        text = (
            f"{name}: priority_steps = {theirs}, here {list(steps)}: it does not see tasks in the other levels: load "
            f'DynPrio there too, or set broker_transport_options["priority_steps"] = {list(steps)}'
        )
        findings.append(Finding("error", "priority_steps", text))
    return findings


def check_messages(facts: Facts, visibility: float, *, late: bool) -> list[Finding]:
    """Judge what waits and what was learned; ``late`` is ``task_acks_late``, ``visibility`` is in seconds."""
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
