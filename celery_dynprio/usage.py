"""Reads from runs what is learned and counted of them: what ran for how long, for whom, and after which wait."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from celery_dynprio import message
from celery_dynprio.attainment import RedisAttainment, Start
from celery_dynprio.backlogs.redis_client import RedisClient
from celery_dynprio.histograms import RedisHistograms
from celery_dynprio.learned import RedisUsage, Run
from celery_dynprio.objectives import Names
from celery_dynprio.propagation import Told
from celery_dynprio.sender import Store

if TYPE_CHECKING:
    from celery_dynprio.settings import Settings


class Ended:
    """Gives the runs that have ended to some stores; of foreign tasks, those from managed queues.

    ``spans`` says whether they ask for more than a run's time: level and wait need its span.
    """

    def __init__(self, stores: Sequence[Store[Run]], queues: Collection[str], *, spans: bool) -> None:
        self._stores = stores
        self._queues = queues
        self._spans = spans

    def add(self, entries: Sequence[Any], /) -> None:
        """Take in what is told of runs; the rest is for others."""
        ended = list(self._read(entries))
        for store in self._stores:
            store.add(ended)

    def close(self) -> None:
        """Give back what the stores hold of the broker."""
        for store in self._stores:
            store.close()

    def _read(self, entries: Sequence[Any]) -> Iterator[Run]:
        for told in entries:
            if isinstance(told, Told) and told.ran is not None:
                headers, delivery = told.run.headers, told.run.delivery_info
                fields = headers[message.HEADER]
                foreign = not isinstance(fields, dict)
                queue = delivery.get("routing_key") if isinstance(delivery, dict) else None
                if not foreign or (isinstance(queue, str) and queue in self._queues):
                    yield self._measured(told, headers, {} if foreign else fields)

    def _measured(self, told: Told, headers: dict[str, Any], fields: dict[str, Any]) -> Run:
        name, seconds = told.run.task.name, told.ran or 0.0
        key = message.text_of(fields.get("key"), message.MAX_KEY)
        if not self._spans:
            return Run(name, key, seconds)
        span, deadline = told.run.span(), message.number(fields.get("due"))
        in_time = None if deadline is None else told.run.started <= deadline
        # Asked for at a time of its own, or tried again: that is no waiting.
        wait = span.wait if headers["eta"] is None else None
        return Run(name, key, seconds, span.level, wait, in_time)


class Started:
    """Counts the runs that objectives are about, but for those that were asked for at a time of their own."""

    def __init__(self, attainment: RedisAttainment, names: Names) -> None:
        self._attainment = attainment
        self._names = names

    def add(self, entries: Sequence[Any], /) -> None:
        """Take in what is told of runs; the rest is for others."""
        starts = []
        for told in entries:
            if isinstance(told, Told) and told.first and told.run.headers["eta"] is None:
                name = told.run.task.name
                wait = told.run.span().wait if self._names.matching(name) else None
                if wait is not None:
                    starts.append(Start(name, wait))
        if starts:
            self._attainment.add(starts)

    def close(self) -> None:
        """Give back what this holds of the broker."""
        self._attainment.close()


def stores(client: RedisClient, settings: Settings) -> list[Store[Any]]:
    """All that learns from runs or counts them, as the settings ask for."""
    found: list[Store[Any]] = []
    ended: list[Store[Run]] = []
    if settings.learn:
        ended.append(RedisUsage(client, settings.half_life))
    if settings.metrics_port is not None:
        ended.append(RedisHistograms(client))
    if ended:
        found.append(Ended(ended, settings.queues, spans=settings.metrics_port is not None))
    if settings.objectives:
        names = Names([objective.match for objective in settings.objectives])
        found.append(Started(RedisAttainment(client, settings.objectives), names))
    return found
