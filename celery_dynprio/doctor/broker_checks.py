"""What in a broker would lose, delay or refuse pending tasks, and what to set instead. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from celery_dynprio.doctor.checks import LARGEST_SKEW, Finding

#: The oldest Redis (or the Redis that a Valkey says it is compatible with).
OLDEST_REDIS: Final = (6, 2)

#: The share of the memory, and of the connections, from which on a broker is nearly full.
NEARLY_FULL: Final = 0.9

_MB: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Broker:
    """What a Redis tells about itself; None is what it does not."""

    version: str | None
    #: Its ``maxmemory-policy``.
    eviction: str | None = "noeviction"
    aof: bool | None = True
    #: Its ``save`` setting.
    snapshots: str | None = None
    #: How many seconds its clock is ahead of this host's.
    skew: float = 0.0
    #: Bytes in use, and the most that may be; 0 if there is no limit.
    memory: int = 0
    maxmemory: int = 0
    connections: int = 0
    maxclients: int | None = None
    #: Whether it takes writes, how many replicas it has, and how many of them must have answered of late to write.
    primary: bool = True
    replicas: int = 0
    min_replicas: int | None = None


def check_rights(missing: str, rules: Sequence[str], user: str) -> list[Finding]:
    """Judge what a user of the broker may not do (``missing``), and what ``ACL SETUSER`` takes to grant it."""
    if not missing:
        return []
    text = (
        f"the broker's user {user} may not {missing}: let an administrator type "
        f"`ACL SETUSER {user} {' '.join(rules)}` in redis-cli, and change the ACL file, if there is one"
    )
    return [Finding("error", "rights", text)]


def check_broker(broker: Broker) -> list[Finding]:
    """Judge what a Redis tells about itself."""
    if broker.version is None:
        text = (
            "this user may not INFO, so version, memory, persistence and replication were not checked: allow it "
            "(ACL SETUSER <user> +info), or look at them yourself"
        )
        return [Finding("warning", "rights", text), *_skew(broker.skew)]
    return [
        *_version(broker.version),
        *_eviction(broker.eviction),
        *_memory(broker),
        *_persistence(broker),
        *_replication(broker),
        *_connections(broker),
        *_skew(broker.skew),
    ]


def _version(version: str) -> Iterable[Finding]:
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    oldest = ".".join(map(str, OLDEST_REDIS))
    if numbers >= OLDEST_REDIS:
        yield Finding("ok", "redis", f"version {version}")
    else:
        yield Finding("error", "redis", f"version {version or '(unknown)'}: use Redis {oldest} or newer, or Valkey")


def _eviction(policy: str | None) -> Iterable[Finding]:
    if policy in {"noeviction", None}:
        yield Finding("ok", "maxmemory-policy", policy or "eviction policy not known")
        return
    yield Finding(
        "warning",
        "maxmemory-policy",
        f"{policy}: when memory is short the broker drops pending tasks: set maxmemory-policy noeviction in redis.conf",
    )


def _memory(broker: Broker) -> Iterable[Finding]:
    used = f"{broker.memory / _MB:,.0f} MB"
    if not broker.maxmemory:
        yield Finding("ok", "maxmemory", f"{used}, no limit")
        return
    of = f"{used} of maxmemory = {broker.maxmemory / _MB:,.0f} MB used"
    if broker.memory < NEARLY_FULL * broker.maxmemory:
        yield Finding("ok", "maxmemory", of)
        return
    full = broker.memory >= broker.maxmemory
    what = "publishing and moving tasks fails" if full else "soon publishing and moving tasks will fail"
    remedy = "raise maxmemory in redis.conf, delete what is not needed, or start more workers"
    yield Finding("error" if full else "warning", "maxmemory", f"{of}: {what}: {remedy}")


def _persistence(broker: Broker) -> Iterable[Finding]:
    if broker.aof:
        yield Finding("ok", "persistence", "append-only file")
    elif broker.snapshots == "":
        text = "none: a restart of the broker loses everything that is pending: set appendonly yes in redis.conf"
        yield Finding("warning", "persistence", text)
    else:
        text = "snapshots only: a crash loses what came since the last one; appendonly yes in redis.conf keeps it"
        yield Finding("ok", "persistence", text)


def _replication(broker: Broker) -> Iterable[Finding]:
    if not broker.primary:
        text = "this server is a replica and takes no writes: set broker_url to its primary, or to Sentinel"
        yield Finding("error", "replication", text)
    elif broker.replicas and not broker.min_replicas:
        text = (
            "asynchronous: a failover loses what was published or moved last: set min-replicas-to-write 1 and "
            "min-replicas-max-lag 10 in redis.conf to bound that"
        )
        yield Finding("warning", "replication", text)
    else:
        yield Finding("ok", "replication", f"{broker.replicas} replicas" if broker.replicas else "no replicas")


def _connections(broker: Broker) -> Iterable[Finding]:
    if not broker.maxclients:
        yield Finding("ok", "connections", f"{broker.connections} connections")
        return
    of = f"{broker.connections:,} of maxclients = {broker.maxclients:,} connections"
    if broker.connections < NEARLY_FULL * broker.maxclients:
        yield Finding("ok", "connections", of)
        return
    text = (
        f"{of}: at the limit workers and producers are refused: raise maxclients in redis.conf, or lower "
        "broker_pool_limit and the number of processes"
    )
    yield Finding("warning", "connections", text)


def _skew(skew: float) -> Iterable[Finding]:
    if abs(skew) <= LARGEST_SKEW:
        yield Finding("ok", "clock", f"clock {skew:+.1f} s")
        return
    yield Finding(
        "warning",
        "clock",
        f"the broker's clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this host's, so ages and "
        "deadlines are off by as much: synchronise both with NTP",
    )
