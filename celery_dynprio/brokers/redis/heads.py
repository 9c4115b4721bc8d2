"""Reads parked messages as far as they are needed to move them: of large ones the bodies stay in the broker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from celery_dynprio.brokers.redis.reading import CHUNK_BYTES, Pace
from celery_dynprio.brokers.redis.stubs import LARGE, MARK, Entry, Stub, size_of
from celery_dynprio.message import MOST_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from celery_dynprio.brokers.redis.client import RedisClient


class Heads:
    """Reads in one broker; ``beat`` is called after each call. See ``lua/parked.lua``."""

    def __init__(self, client: RedisClient, beat: Callable[[], object] = lambda: None) -> None:
        self._script = client.script("parked", "short")
        self._beat = beat

    def fetch(self, key: str, fields: Iterable[str]) -> Iterator[tuple[str, Entry | None]]:
        """These fields of a hash, each with its message, None where there is none."""
        left, pace = list(fields), Pace()
        while left:
            found = [_entry(each) for each in self._ask(key, "get", *left[: pace.size])]
            yield from zip(left, found, strict=False)
            del left[: len(found)]
            pace.learn(len(found), sum(size_of(each) for each in found if each is not None))

    def scan(self, key: str, cursor: int, pace: Pace) -> tuple[int, dict[bytes, Entry]]:
        """Some fields of a hash, each with its message, and the cursor for the next ones; 0 at the end."""
        cursor, found = self._ask(key, "scan", cursor, pace.size)
        entries = dict(zip(found[::2], map(_entry, found[1::2]), strict=True))
        pace.learn(len(entries), sum(map(size_of, entries.values())))
        return int(cursor), entries

    def _ask(self, key: str, *what: Any) -> Any:
        answer = self._script(keys=[key], args=[LARGE, MOST_BYTES, MARK, CHUNK_BYTES, *what])
        self._beat()
        return answer


def _entry(told: bytes | Sequence[Any] | None) -> Any:
    return told if told is None or isinstance(told, bytes) else Stub(*told)
