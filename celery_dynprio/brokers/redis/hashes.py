"""Hashes that hold hints: without them tasks are put in order less well, so whatever is wrong with one ends no tick."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from redis.exceptions import ResponseError

from celery_dynprio.brokers.redis.client import RedisClient
from celery_dynprio.complaints import Complaints

logger = logging.getLogger("celery_dynprio.broker")

#: Fields in one answer, about: less than a millisecond of the server's time.
AT_ONCE: Final = 1000


class Hashes:
    """Reads hashes; a key of another type counts as an empty one, and is complained of once a minute.

    Raises the errors of redis-py when the broker is away.
    """

    def __init__(self, client: RedisClient) -> None:
        self._redis = client.redis
        self._complain = Complaints(logger, "key %s in the broker is no hash, so what it held is not known: DEL it")

    def read(self, *keys: str) -> list[Mapping[bytes, bytes]]:
        """Return all fields of these hashes: in one round trip, or where they are large, one for so many fields.

        What others change meanwhile may be there as it was before or as it is then.
        """
        found: dict[str, dict[bytes, bytes]] = {key: {} for key in keys}
        cursors = dict.fromkeys(keys, 0)
        while cursors:
            answers = self.ask(*(("HSCAN", key, cursor, "COUNT", AT_ONCE) for key, cursor in cursors.items()))
            for key, answer in zip(list(cursors), answers, strict=True):
                cursors[key], fields = answer or (0, {})
                found[key] |= fields
                if not cursors[key]:
                    del cursors[key]
        return [found[key] for key in keys]

    def ask(self, *commands: Sequence[Any]) -> list[Any]:
        """Return what the broker answers to commands on hashes, in one round trip; None where there is no hash.

        What comes second in a command is its key.
        """
        pipe = self._redis.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)
        return [self._known(*each) for each in zip(commands, pipe.execute(raise_on_error=False), strict=True)]

    def field(self, key: str, field: str) -> bytes | None:
        """Return one field; None if there is none."""
        return self.fields(key, [field])[0]

    def fields(self, key: str, fields: list[str]) -> list[bytes | None]:
        """Return some fields of one hash; None for what is not there."""
        return self.ask(("HMGET", key, *fields))[0] or [None] * len(fields)

    def _known(self, command: Sequence[Any], answer: Any) -> Any:
        """Return the answer; complain of a key of another type, and raise whatever else went wrong."""
        if not isinstance(answer, Exception):
            return answer
        if not (isinstance(answer, ResponseError) and "WRONGTYPE" in str(answer)):
            raise answer
        self._complain(command[1])
        return None
