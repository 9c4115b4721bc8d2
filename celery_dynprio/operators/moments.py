"""Moments as people read them."""

from __future__ import annotations

import time
from datetime import datetime, tzinfo

_FORMAT = "%Y-%m-%d %H:%M:%S"


def moment(at: float, zone: tzinfo | None = None) -> str:
    """Unix seconds as date, time and zone: an app's own (``app.timezone``), or this machine's."""
    try:
        if zone is None:
            return time.strftime(f"{_FORMAT} %Z", time.localtime(at))
        return datetime.fromtimestamp(at, zone).strftime(f"{_FORMAT} %Z")
    except (OverflowError, ValueError, OSError):  # a message may say any number
        return f"{at:g}"
