"""Hashes that hold hints: without them tasks are put in order less well, so whatever is wrong with one ends no tick."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from redis.exceptions import ResponseError

from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.complaints import Complaints

logger = logging.getLogger("celery_dynprio.broker")


class Hashes:
    """Reads hashes; a key of another type counts as an empty one, and is complained of once a minute.

    Raises the errors of redis-py when the broker is away.
    """

    def __init__(self, client: RedisClient) -> None:
        self._redis = client.redis
        self._complain = Complaints(logger, "key %s in the broker is no hash, so what it held is not known: DEL it")

    def read(self, *keys: str) -> list[Mapping[bytes, bytes]]:
        """Return all fields of these hashes, in one round trip."""
        pipe = self._redis.pipeline(transaction=False)
        for key in keys:
            pipe.hgetall(key)
        return [self._fields(*each) for each in zip(keys, pipe.execute(raise_on_error=False), strict=True)]

    def field(self, key: str, field: str) -> bytes | None:
        """Return one field; None if there is none."""
        return self.fields(key, [field])[0]

    def fields(self, key: str, fields: list[str]) -> list[bytes | None]:
        """Return some fields of one hash; None for what is not there."""
        try:
            found: list[bytes | None] = self._redis.hmget(key, fields)
        except ResponseError as exc:
            self._refuse(key, exc)
            return [None] * len(fields)
        return found

    def _fields(self, key: str, answer: Any) -> Mapping[bytes, bytes]:
        if isinstance(answer, Exception):
            self._refuse(key, answer)
            return {}
        found: Mapping[bytes, bytes] = answer
        return found

    def _refuse(self, key: str, error: Exception) -> None:
        """Complain of a key of another type; whatever else went wrong is raised."""
        if not (isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE")):
            raise error
        self._complain(key)
