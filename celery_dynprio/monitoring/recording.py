"""Recording in a process: for as long as it is told to, whatever the broker and the disk do."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

from celery_dynprio.assembly import broker_errors, recorder
from celery_dynprio.complaints import Complaints
from celery_dynprio.lab.recorder import ROUND, Recorder, Target
from celery_dynprio.models import Report, Role
from celery_dynprio.ports.installation import Installation

logger = logging.getLogger("celery_dynprio.recording")

#: Seconds until a recording that could not begin is tried again, and for which the end of a process waits for its own.
AGAIN: Final = 10.0
STOP_TIMEOUT: Final = 5.0


def record(recording: Recorder, stop: Callable[[float], bool]) -> None:
    """Record until ``stop`` returns true, which waits for so many seconds; then write what is still there.

    What goes wrong meanwhile is logged, once a minute at most.
    """
    complain = Complaints(logger, "recording goes on, %d tries are lost so far: %s", level=logging.WARNING)
    errors: tuple[type[Exception], ...] = (OSError, *broker_errors().any)
    is_over = was_over = False
    while not was_over:  # one more round after the end: what was told until then
        was_over = is_over
        try:
            recording.turn()
        except errors as exc:
            complain(recording.dropped, exc)
        is_over = is_over or stop(ROUND)
    try:
        recording.close()
    except errors as exc:
        complain(recording.dropped, exc)


class Recording:
    """Records as ``dynprio_record`` says, in a thread, while this process leads the first of the managed queues.

    So one process records, whichever leads. Elsewhere nothing is done.
    """

    def __init__(self, installation: Installation, path: str) -> None:
        self._installation = installation
        self._settings = settings = installation.settings
        self._target = Target(Path(path), settings.record_size, settings.record_files, settings.record_secret)
        self._complain = Complaints(logger, "nothing is recorded: %s", level=logging.WARNING)
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def observe(self, report: Report) -> None:
        """Begin or end, as this process leads or not."""
        if report.queue == self._settings.queues[0]:
            leads = report.role in {Role.LEADER, Role.PAUSED}
            if leads and self._thread is None:
                self._stop = threading.Event()
                self._thread = threading.Thread(
                    target=self._run, args=(self._stop,), name="dynprio recording", daemon=True
                )
                self._thread.start()
            elif not leads:
                self._end()

    def failed(self, queue: str, problem: Exception) -> None:
        """Go on: who leads is not known."""

    def close(self) -> None:
        """Write what waits; the loop has ended."""
        thread = self._thread
        self._end()
        if thread is not None:
            thread.join(STOP_TIMEOUT)

    def _end(self) -> None:
        self._stop.set()
        self._thread = None

    def _run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                with closing(self._installation.connect()) as broker:
                    recording = recorder(self._installation.app, broker, self._settings, self._target)
                    logger.info("recording to %s", self._target.path)
                    record(recording, stop.wait)
            except Exception as exc:  # noqa: BLE001 - whatever it is, the next one may go well
                self._complain(exc)
            stop.wait(AGAIN)
