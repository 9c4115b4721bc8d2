"""Asks the broker what changed in lists that were read before: see ``lua/news.lua``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from celery_dynprio.brokers.redis.stubs import LARGE, MARK, Entry, Stub
from celery_dynprio.message import MOST_BYTES

if TYPE_CHECKING:
    from celery_dynprio.brokers.redis.client import RedisClient

#: One call looks at no more messages, nor bytes of them: one to two milliseconds of the server's time.
MOST_MESSAGES: Final = 800
MOST_LOOKED: Final = 800_000

#: So many messages at the tail are compared with what is known, fewer once they have so many bytes.
TAIL: Final = 16
TAIL_BYTES: Final = 20_000

#: What a list has behind the messages that were looked at: more, the anchor, or nothing.
MORE, ANCHOR, ENDS = range(3)


#: No message is like this.
NO_ANCHOR: Final = (-1, b"")


class Question(NamedTuple):
    """What to look for in one list."""

    key: str
    #: The index to begin at, from 0 at the head.
    start: int
    #: The size and the last bytes of the message to stop at.
    anchor: tuple[int, bytes] = NO_ANCHOR
    #: How far behind the anchor to begin a digest, and of how many messages.
    offset: int = 0
    most: int = 0


class News(NamedTuple):
    """What was found in one list."""

    length: int
    #: How many messages were looked at, and what comes next.
    looked: int
    state: int
    #: How many messages at the tail are in this digest, and the same behind the anchor.
    tail: int
    tail_digest: bytes
    part: int
    part_digest: bytes
    #: From the head on.
    entries: Sequence[Entry]
    #: The whole list, from the head on, at the same moment; None unless that was asked for.
    whole: Sequence[bytes] | None = None


class NewsReader:
    """Reads in one queue, whose moves are counted at ``moves_key``; ``beat`` is called after each call.

    If it is ``checked``, each list comes whole as well.
    """

    def __init__(
        self, client: RedisClient, moves_key: str, beat: Callable[[], object] = lambda: None, *, checked: bool = False
    ) -> None:
        self._script = client.script("news", "short")
        self._moves_key = moves_key
        self._beat = beat
        self.checked = checked

    def ask(self, questions: Sequence[Question]) -> tuple[int, list[News]]:
        """Return how many moves were ever made in the queue, and the news of each list, at one moment."""
        keys = [self._moves_key, *(question.key for question in questions)]
        arguments: list[Any] = [
            MOST_MESSAGES,
            MOST_LOOKED,
            LARGE,
            MOST_BYTES,
            MARK,
            TAIL,
            TAIL_BYTES,
            int(self.checked),
        ]
        for question in questions:
            arguments += (question.start, *question.anchor, question.offset, question.most)
        moves, *answers = self._script(keys=keys, args=arguments)
        self._beat()
        return moves, list(map(_news, answers))


def _news(answer: Sequence[Any]) -> News:
    length, looked, state, tail, tail_digest, part, part_digest, found, *whole = answer
    entries = [each if isinstance(each, bytes) else Stub(*each) for each in found]
    return News(length, looked, state, tail, tail_digest, part, part_digest, entries, *whole)
