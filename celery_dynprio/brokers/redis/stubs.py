"""Large messages as they are known here: without their bodies, which stay in the broker."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final, NamedTuple, TypeAlias

#: Larger messages (bytes) are known without their bodies.
LARGE: Final = 8_000

#: Messages (bytes) that are so small, or smaller, are found by comparisons when they are moved: see ``lua/move.lua``.
SMALL: Final = 2000

#: A message is told from others by its size and so many of its last bytes: kombu writes its tag there.
MARK: Final = 200

#: How a message begins of which the rest is known: kombu writes the body first.
BEGINS: Final = b'{"body": "'


class Stub(NamedTuple):
    """A large message."""

    #: All of its bytes.
    size: int
    #: What comes behind its body, with the quote that ends it; of one that is too large to be moved, its last bytes.
    rest: bytes

    @property
    def text(self) -> bytes:
        """The message with an empty body."""
        return BEGINS + self.rest


#: A message as it is, or a large one.
Entry: TypeAlias = "bytes | Stub"


def size_of(entry: Entry) -> int:
    """Return the bytes of the message."""
    return entry.size if isinstance(entry, Stub) else len(entry)


def is_sought(entry: Entry) -> bool:
    """Whether the move script finds the message in a list by its place, and not by comparing it with all before it."""
    return isinstance(entry, Stub) or len(entry) > SMALL


def told(entry: Entry) -> bytes:
    """Return what is known of the message."""
    return entry.rest if isinstance(entry, Stub) else entry


def text_of(entry: Entry) -> bytes:
    """Return the message, or one that says the same but for its body."""
    return entry.text if isinstance(entry, Stub) else entry


def mark_of(entry: Entry) -> tuple[int, bytes]:
    """Return what tells the message from others."""
    return size_of(entry), told(entry)[-MARK:]


def matches(entry: Entry, raw: bytes) -> bool:
    """Whether this is what is known of the message ``raw``."""
    return entry == raw if isinstance(entry, bytes) else entry.size == len(raw) and raw.endswith(entry.rest)


def digest(entries: Iterable[Entry], last: int) -> bytes:
    """Return the digest that ``lua/news.lua`` makes of these messages, by the ``last`` bytes of each."""
    entries = list(entries)
    texts = [told(entry)[-last:] for entry in entries]
    texts.append(b"%d" % sum(map(size_of, entries)))
    return hashlib.sha1(b"\n".join(texts), usedforsecurity=False).hexdigest().encode()
