"""Examines a Redis or Valkey: see :class:`~celery_dynprio.ports.health.Health` for the methods."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from redis.exceptions import NoPermissionError, RedisError

from celery_dynprio import message
from celery_dynprio.brokers.redis.checks import ServerInfo, check_rights, check_server
from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.brokers.redis.reading import Reader
from celery_dynprio.brokers.redis.rights import missing
from celery_dynprio.levels import KOMBU_STEPS
from celery_dynprio.models import PendingTask
from celery_dynprio.ports.health import Finding


class RedisHealth:
    """Examines the server behind one client."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    def check_server(self) -> list[Finding]:
        """Judge the server."""
        return check_server(server_info(self._client))

    def check_rights(self, queues: Sequence[str]) -> list[Finding]:
        """Name the rights that the user lacks."""
        lacks = missing(self._client, queues)
        user = self._client.connection.userid or "default"
        return check_rights(str(lacks), lacks.rules(self._client.prefix), user)

    def unpolled(self, queues: Sequence[str]) -> dict[str, int]:
        """Count messages in the lists of steps that others may use and this app does not."""
        client = self._client
        others = sorted({*KOMBU_STEPS, *range(10)} - set(client.scale.numbers))
        found = {}
        for queue in queues:
            for step in others:
                key = f"{client.prefix}{queue}{client.sep}{step}" if step else f"{client.prefix}{queue}"
                if count := client.redis.llen(key):
                    found[key] = int(count)
        return found

    def newest(self, queue: str, count: int) -> Iterator[PendingTask | str]:
        """Yield the newest tasks of each level."""
        client, now, reader = self._client, self._client.server_time(), Reader(self._client)
        for level in client.scale.levels:
            for _, raw in reader.look(client.level_key(queue, level), 0, count).found:
                yield message.TOO_LARGE if isinstance(raw, int) else message.parse(raw, now, client.scale)


def server_info(client: RedisClient) -> ServerInfo:
    """Ask a Redis about itself, in one round trip."""
    pipe = client.redis.pipeline(transaction=False)
    pipe.info()
    for name in ("save", "maxclients", "min-replicas-to-write"):  # several at once from Redis 7 on
        pipe.config_get(name)
    before = time.time()
    pipe.time()
    info, *answers, clock = pipe.execute(raise_on_error=False)
    after = time.time()
    for answer in (info, clock):
        if isinstance(answer, RedisError) and not isinstance(answer, NoPermissionError):
            raise answer
    skew = 0.0
    if not isinstance(clock, RedisError):
        theirs = clock[0] + clock[1] / 1e6
        # The answer was made at some moment in between: what that explains is no skew.
        skew = max(theirs - after, 0.0) + min(theirs - before, 0.0)
    if isinstance(info, RedisError):
        return ServerInfo(None, skew=skew)
    config: dict[str, Any] = {}
    for answer in answers:
        config |= {} if isinstance(answer, RedisError) else answer  # managed services forbid CONFIG
    return _server_info(info, config, skew)


def _server_info(info: Mapping[str, Any], config: Mapping[str, Any], skew: float) -> ServerInfo:
    maxclients = config.get("maxclients") or info.get("maxclients")
    min_replicas = config.get("min-replicas-to-write")
    if min_replicas is None and "min_slaves_good_slaves" in info:  # INFO has it only where the setting is above 0
        min_replicas = 1
    return ServerInfo(
        version=str(info.get("redis_version", "")),
        eviction=info.get("maxmemory_policy"),
        aof=bool(info.get("aof_enabled")),
        snapshots=config.get("save"),
        skew=skew,
        memory=int(info.get("used_memory", 0)),
        maxmemory=int(info.get("maxmemory", 0)),
        connections=int(info.get("connected_clients", 0)),
        maxclients=None if maxclients is None else int(maxclients),
        primary=info.get("role", "master") == "master",
        replicas=int(info.get("connected_slaves", 0)),
        min_replicas=None if min_replicas is None else int(min_replicas),
    )
