"""Durations as people write them: seconds, a timedelta, or a text such as "30s" or "1h30m". Pure."""

from __future__ import annotations

import math
import re
import sys
from datetime import datetime, timedelta
from typing import Final, TypeAlias

#: Seconds as a number, a timedelta, or a text: a number of seconds, or numbers with the units ms, s, m, h and d.
Duration: TypeAlias = float | timedelta | str

#: When something is due: after a duration, or at a moment, which must have a time zone.
Due: TypeAlias = float | timedelta | str | datetime

#: What error messages suggest.
EXAMPLES: Final = 'seconds as a number, a timedelta, or a text such as "30s", "5m" or "1h30m"'

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

_PART: Final = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(ms|[smhd])\s*")


def seconds(value: object) -> float | None:
    """Return the seconds of a :data:`Duration`, which may be negative or 0; None for any other or infinite value."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, str):
        return _read(value.strip().lower())
    if isinstance(value, (int, float)) and type(value) is not bool and abs(value) <= sys.float_info.max:
        return value
    return None


def _read(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        number, end = 0.0, 0
        while found := _PART.match(text, end):
            number, end = number + float(found[1]) * _UNITS[found[2]], found.end()
        if not text or end < len(text):
            return None
    return number if math.isfinite(number) else None


def timestamp(moment: datetime) -> float | None:
    """Return the Unix seconds of a moment, at least 0; None if it has no time zone."""
    return None if moment.utcoffset() is None else max(moment.timestamp(), 0.0)
