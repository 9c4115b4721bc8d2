"""Checks texts and numbers that others wrote: in messages, in the broker, in events."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, Final

#: The longest text that is logged (characters).
MAX_TEXT: Final = 200

#: No time and no weight is larger; what is would not even fit a float, perhaps.
MAX_NUMBER: Final = 1e15

_NUMBERS: Final = frozenset((int, float))


def clean(text: object, longest: int = MAX_TEXT) -> str:
    """Return a text that fits one line of a log: at most so many characters, all printable; "" if it is no text."""
    if not isinstance(text, str):
        return ""
    text = text[:longest]
    return text if text.isprintable() else text.encode("unicode_escape").decode()[:longest]


def number(value: object, default: Any = None) -> Any:
    """Return a number as a float; ``default`` if it is none, below 0, or too large to be meant."""
    if type(value) in _NUMBERS and 0 <= value <= MAX_NUMBER:  # type: ignore[operator]
        return float(value)  # type: ignore[arg-type]
    return default


def text_of(value: object, longest: int) -> str:
    """Return a text that Redis can store, of at most so many characters; "" if it is none."""
    if not isinstance(value, str) or len(value) > longest:
        return ""
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:  # a lone surrogate: JSON may carry it, Redis cannot store it
            return ""
    return value


def whole(value: object) -> int | None:
    """Return a whole number; None if it is none, below 0, or too large to be meant."""
    return value if type(value) is int and 0 <= value <= MAX_NUMBER else None


def unix_seconds(eta: object) -> float | None:
    """Return the ETA of a message in Unix seconds, None if it has none; Celery writes its zone, else it is in UTC."""
    if not isinstance(eta, str):
        return None
    try:
        at = datetime.fromisoformat(eta.replace("Z", "+00:00"))
        return (at if at.tzinfo else at.replace(tzinfo=timezone.utc)).timestamp()
    except (ValueError, OverflowError):
        return None
