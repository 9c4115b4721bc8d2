"""The shares of keys that operators set while everything runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from celery_dynprio.errors import ArgumentError
from celery_dynprio.message import MAX_KEY
from celery_dynprio.policies.base import is_number
from celery_dynprio.ports.stores import SetShare, ShareStore

#: How many shares may be set at once.
MOST: Final = 1_000


class Sharing:
    """Sets, lists and removes shares; ``clock`` gives Unix seconds."""

    def __init__(self, store: ShareStore, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock

    def set(self, key: str, share: float, seconds: float | None = None) -> SetShare:
        """Set the share of a key, for so many seconds (None: for ever), and return it.

        Raises :class:`~celery_dynprio.errors.ArgumentError` for what is not allowed.
        """
        now = self._clock()
        if len(key) > MAX_KEY:
            raise ArgumentError("key", key, f"use at most {MAX_KEY} characters")
        if not is_number(share) or share <= 0:
            raise ArgumentError("share", share, "use a finite number above 0")
        if seconds is not None and (not is_number(seconds) or seconds <= 0):
            raise ArgumentError("for", seconds, "use a number of seconds above 0, or None")
        others = [each for each in self._store.read(now) if each.key != key]
        if len(others) >= MOST:
            raise ArgumentError("key", key, f"{MOST:,} shares are set already; remove some, or set them in the policy")
        found = SetShare(key, float(share), None if seconds is None else now + seconds)
        self._store.set(found, now)
        return found

    def remove(self, key: str) -> bool:
        """Drop the share that was set for a key; return whether there was one."""
        return self._store.remove(key)

    def all(self) -> Sequence[SetShare]:
        """Return the shares that count now, sorted by key."""
        return self._store.read(self._clock())
