"""A log line a minute for what may fail a thousand times a second."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

#: Seconds between two lines of the same kind.
COMPLAINT_INTERVAL: Final = 60.0


class Complaints:
    """Logs a problem, unless another one of its kind was logged within the last minute.

    ``text`` has a ``%s`` for each argument of a call, ``level`` is that of the line, and ``clock`` gives seconds that
    never run backwards.
    """

    def __init__(
        self,
        logger: logging.Logger,
        text: str,
        clock: Callable[[], float] = time.monotonic,
        level: int = logging.ERROR,
    ) -> None:
        self._logger = logger
        self._text = text
        self._clock = clock
        self._level = level
        self._next = 0.0

    def __call__(self, *problem: object) -> None:
        """Log the problem, once a minute at most."""
        now = self._clock()
        if now >= self._next:
            self._next = now + COMPLAINT_INTERVAL
            self._logger.log(self._level, self._text, *problem)
