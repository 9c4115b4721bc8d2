"""What in a Redis would lose, delay or refuse pending tasks, and what to set instead. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from celery_dynprio.ports.health import LARGEST_SKEW, Finding

#: The oldest version supported; a Valkey names the Redis that it is compatible with.
OLDEST_REDIS: Final = (6, 2)

#: A server is nearly full from this share of its memory, or of its connections, on.
NEARLY_FULL: Final = 0.9

_MB: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a Redis says about itself; None where it does not say."""

    version: str | None
    #: Its ``maxmemory-policy``.
    eviction: str | None = "noeviction"
    aof: bool | None = True
    #: Its ``save`` setting.
    snapshots: str | None = None
    #: Seconds by which its clock is ahead of this host's.
    skew: float = 0.0
    #: Bytes in use, and their limit; 0 if there is none.
    memory: int = 0
    maxmemory: int = 0
    connections: int = 0
    maxclients: int | None = None
    #: Whether it takes writes, how many replicas it has, and how many of them must follow closely before it does.
    primary: bool = True
    replicas: int = 0
    min_replicas: int | None = None


def check_rights(missing: str, rules: Sequence[str], user: str) -> list[Finding]:
    """Report what the broker's user may not do (``missing``); ``rules`` are what ``ACL SETUSER`` takes to grant it."""
    if not missing:
        return []
    text = (
        f"the broker's user {user} may not {missing}: let an administrator type "
        f"`ACL SETUSER {user} {' '.join(rules)}` in redis-cli, and change the ACL file, if there is one"
    )
    return [Finding("error", "rights", text)]


def check_server(server: ServerInfo) -> list[Finding]:
    """Judge what a Redis says about itself."""
    if server.version is None:
        text = (
            "this user may not INFO, so version, memory, persistence and replication were not checked: allow it "
            "(ACL SETUSER <user> +info), or look at them yourself"
        )
        return [Finding("warning", "rights", text), *_skew(server.skew)]
    return [
        *_version(server.version),
        *_eviction(server.eviction),
        *_memory(server),
        *_persistence(server),
        *_replication(server),
        *_connections(server),
        *_skew(server.skew),
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


def _memory(server: ServerInfo) -> Iterable[Finding]:
    used = f"{server.memory / _MB:,.0f} MB"
    if not server.maxmemory:
        yield Finding("ok", "maxmemory", f"{used}, no limit")
        return
    of = f"{used} of maxmemory = {server.maxmemory / _MB:,.0f} MB used"
    if server.memory < NEARLY_FULL * server.maxmemory:
        yield Finding("ok", "maxmemory", of)
        return
    full = server.memory >= server.maxmemory
    what = "publishing and moving tasks fails" if full else "soon publishing and moving tasks will fail"
    remedy = "raise maxmemory in redis.conf, delete what is not needed, or start more workers"
    yield Finding("error" if full else "warning", "maxmemory", f"{of}: {what}: {remedy}")


def _persistence(server: ServerInfo) -> Iterable[Finding]:
    if server.aof:
        yield Finding("ok", "persistence", "append-only file")
    elif server.snapshots == "":
        text = "none: a restart of the broker loses everything that is pending: set appendonly yes in redis.conf"
        yield Finding("warning", "persistence", text)
    else:
        text = "snapshots only: a crash loses what came since the last one; appendonly yes in redis.conf keeps it"
        yield Finding("ok", "persistence", text)


def _replication(server: ServerInfo) -> Iterable[Finding]:
    if not server.primary:
        text = "this server is a replica and takes no writes: set broker_url to its primary, or to Sentinel"
        yield Finding("error", "replication", text)
    elif server.replicas and not server.min_replicas:
        text = (
            "asynchronous: a failover loses what was published or moved last: set min-replicas-to-write 1 and "
            "min-replicas-max-lag 10 in redis.conf to bound that"
        )
        yield Finding("warning", "replication", text)
    else:
        yield Finding("ok", "replication", f"{server.replicas} replicas" if server.replicas else "no replicas")


def _connections(server: ServerInfo) -> Iterable[Finding]:
    if not server.maxclients:
        yield Finding("ok", "connections", f"{server.connections} connections")
        return
    of = f"{server.connections:,} of maxclients = {server.maxclients:,} connections"
    if server.connections < NEARLY_FULL * server.maxclients:
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
