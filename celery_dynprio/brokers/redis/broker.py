"""Redis and Valkey as a broker: see :class:`~celery_dynprio.ports.broker.Broker` for the methods."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from celery_dynprio.brokers.redis.attainment import RedisAttainment
from celery_dynprio.brokers.redis.audit import RedisAudit
from celery_dynprio.brokers.redis.backlog import RedisBacklog
from celery_dynprio.brokers.redis.client import BROKER_ERRORS, BrokerClock, RedisClient
from celery_dynprio.brokers.redis.counts import count_places, occupied_queues
from celery_dynprio.brokers.redis.feed import RedisFeed
from celery_dynprio.brokers.redis.guidance import RedisGuidance
from celery_dynprio.brokers.redis.health import RedisHealth
from celery_dynprio.brokers.redis.histograms import RedisHistograms
from celery_dynprio.brokers.redis.lease import RedisLease, RedisLeases
from celery_dynprio.brokers.redis.reading import Reader
from celery_dynprio.brokers.redis.running import RedisRunning
from celery_dynprio.brokers.redis.shares import RedisShares
from celery_dynprio.brokers.redis.spans import RedisSpans
from celery_dynprio.brokers.redis.switch import RedisSwitch
from celery_dynprio.brokers.redis.trouble import REFUSALS, explained
from celery_dynprio.brokers.redis.usable import RedisUsableLevels
from celery_dynprio.brokers.redis.usage import RedisUsage
from celery_dynprio.message import described
from celery_dynprio.models import Place
from celery_dynprio.objectives import Objective
from celery_dynprio.ports.broker import BrokerErrors, Capabilities, WorkersOfQueues
from celery_dynprio.ports.guidance import EXPIRY
from celery_dynprio.ports.lease import TTL, Kind

ERRORS: Final = BrokerErrors(BROKER_ERRORS, REFUSALS, explained)


class RedisBroker:
    """One Redis, over the connections of one client."""

    def __init__(self, client: RedisClient) -> None:
        self.client = client
        self.scale = client.scale
        self.capabilities = Capabilities()
        self.errors = ERRORS
        self.stores = RedisStores(client)
        self.clock = BrokerClock(client)
        self.health = RedisHealth(client)

    def backlog(
        self,
        queue: str,
        window: int = 10_000,
        *,
        clock: Callable[[], float] | None = None,
        beat: Callable[[], object] | None = None,
    ) -> RedisBacklog:
        """Return the pending tasks of one managed queue."""
        return RedisBacklog(self.client, queue, window, clock or self.clock, beat or _nobody)

    def lease(self, queue: str, owner: str, kind: Kind = "dedicated", ttl: float = TTL) -> RedisLease:
        """Return the right to move the tasks of a queue."""
        return RedisLease(self.client, queue, owner, kind, ttl)

    def leases(self, queues: Collection[str], owner: str, kind: Kind = "dedicated", ttl: float = TTL) -> RedisLeases:
        """Return the same of many queues."""
        return RedisLeases(self.client, queues, owner, kind, ttl=ttl, clock=self.clock)

    def levels(self, queue: str, workers: WorkersOfQueues | None = None, ttl: float = 30.0) -> RedisUsableLevels:
        """Return the levels of a queue that may be used."""
        return RedisUsableLevels(self.client, queue, workers, ttl=ttl)

    def counts(self, queues: Iterable[str]) -> Mapping[str, Mapping[Place, int]]:
        """Return the number of messages in each place of these queues."""
        return count_places(self.client, queues)

    def occupied(self, queues: Collection[str]) -> Collection[str]:
        """Return those of these queues in which a leader has something to do."""
        return occupied_queues(self.client, queues)

    def delivered(self) -> int:
        """Return how many messages of all queues workers have and did not acknowledge."""
        return int(self.client.redis.hlen(self.client.unacked_key))

    def unacknowledged(self) -> Iterator[Mapping[str, Any]]:
        """Return the headers of these messages."""
        return map(_headers, Reader(self.client).values(self.client.unacked_key))

    def delivery(self, raw: bytes) -> Any:
        """Return the message as kombu hands it to a worker."""
        channel = self.client.channel
        return channel.Message(json.loads(raw), channel=channel)

    @property
    def connection(self) -> Any:
        """Return kombu's connection."""
        return self.client.connection

    def rest(self) -> None:
        """Close what is connected until there is another call."""
        self.client.rest()

    def close(self) -> None:
        """Close the connection."""
        self.client.close()


class RedisStores:
    """The stores in the broker's Redis: see :class:`~celery_dynprio.ports.stores.Stores` for the methods."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    def switch(self) -> RedisSwitch:
        """Return the kill switch."""
        return RedisSwitch(self._client)

    def audit(self) -> RedisAudit:
        """Return the log of what operators did."""
        return RedisAudit(self._client)

    def usage(self, half_life: float) -> RedisUsage:
        """Return learned runtimes and use."""
        return RedisUsage(self._client, half_life)

    def running(self) -> RedisRunning:
        """Return what runs now."""
        return RedisRunning(self._client)

    def shares(self) -> RedisShares:
        """Return the shares that operators have set."""
        return RedisShares(self._client)

    def attainment(
        self, objectives: Sequence[Objective], clock: Callable[[], float] | None = None, interval: float = 1.0
    ) -> RedisAttainment:
        """Return the counts of these objectives."""
        return RedisAttainment(self._client, objectives, clock, interval)

    def histograms(self) -> RedisHistograms:
        """Return the histograms of waits and runs."""
        return RedisHistograms(self._client)

    def spans(self, ttl: float = 86_400.0, spans: int = 1000, total: int = 100_000) -> RedisSpans:
        """Return the trace store."""
        return RedisSpans(self._client, ttl, spans, total)

    def feed(self) -> RedisFeed:
        """Return what workers tell recorders."""
        return RedisFeed(self._client)

    def cancellations(self) -> RedisCancellations:
        """Return the signs of life of operators who cancel tasks."""
        return RedisCancellations(self._client)

    def guidance(self, expiry: float = EXPIRY) -> RedisGuidance:
        """Return what leaders tell producers."""
        return RedisGuidance(self._client, expiry)


class RedisCancellations:
    """One key that expires."""

    def __init__(self, client: RedisClient) -> None:
        self._redis = client.redis
        self._key = client.app_key("cancelling")

    def show_life(self, by: str, seconds: float) -> None:
        """Say that ``by`` is cancelling tasks, for so long."""
        self._redis.set(self._key, by, px=int(seconds * 1000))

    def under_way(self) -> bool:
        """Whether somebody said so, and it has not run out."""
        return bool(self._redis.exists(self._key))


def _nobody() -> None:
    """Nobody waits for a sign of life."""


def _headers(raw: bytes) -> Mapping[str, Any]:
    try:
        return described(json.loads(raw)[0])
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}
