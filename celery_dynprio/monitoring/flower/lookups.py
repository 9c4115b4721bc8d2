"""Questions about single tasks, bounded: whoever asks for many must not keep all others from the page."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, NamedTuple

from celery_dynprio.errors import DynPrioError

#: Questions that are being answered or wait for it; an answer takes up to a second.
MOST_QUESTIONS: Final = 8

#: Seconds for which an answer is given again, "not found" as well.
AGE: Final = 3.0


class _Question(NamedTuple):
    at: float
    answer: Future[Any]


class Lookups:
    """Answers one question after the other, in a thread of its own; the same one is answered once for all who ask.

    ``clock`` gives seconds that never go back.
    """

    def __init__(
        self,
        read: Callable[[str], Any],
        most: int = MOST_QUESTIONS,
        age: float = AGE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._most = most
        self._age = age
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "dynprio lookup")
        self._lock = threading.Lock()
        self._questions: dict[str, _Question] = {}

    def ask(self, key: str) -> Future[Any]:
        """The answer, which may be that the broker is away; :class:`DynPrioError` if too many wait already."""
        with self._lock:
            now = self._clock()
            self._questions = {
                each: question for each, question in self._questions.items() if not self._is_over(question, now)
            }
            if key not in self._questions:
                if sum(not question.answer.done() for question in self._questions.values()) >= self._most:
                    raise DynPrioError("Too many tasks are being looked up: try again in a few seconds.")
                self._questions[key] = _Question(now, self._thread.submit(self._read, key))
            return self._questions[key].answer

    def forget(self) -> None:
        """Answer anew whatever is asked from now on."""
        with self._lock:
            self._questions = {
                each: question for each, question in self._questions.items() if not question.answer.done()
            }

    def _is_over(self, question: _Question, now: float) -> bool:
        answer = question.answer
        return answer.done() and (now - question.at >= self._age or answer.exception() is not None)
