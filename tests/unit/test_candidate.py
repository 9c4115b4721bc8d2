"""The step of a worker that looks whether a reprioritizer runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from celery_dynprio.worker.candidate import Candidate


class _Looking:
    """A look that another greenlet interrupts with a stop of the step, if it is given one, and that fails."""

    def __init__(self, step: Candidate, stopped_by: Any = None) -> None:
        self._step, self._stopped_by = step, stopped_by

    def look(self) -> None:
        if self._stopped_by is not None:
            self._step.stop(self._stopped_by)
        raise ValueError("I/O operation on closed file.")

    def close(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize("stopped", [True, False])
def test_a_look_that_a_stop_interrupts_is_silent_and_the_last(
    *, stopped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app = Celery("proj", broker="redis://127.0.0.1:1/0", set_as_current=False)
    scheduled: list[Any] = []
    consumer = SimpleNamespace(app=app, timer=SimpleNamespace(call_after=lambda *given: scheduled.append(given)))
    step = Candidate(consumer)
    step._watch = _Looking(step, consumer if stopped else None)  # type: ignore[assignment]
    step._look(consumer, step._round)
    assert [record.message for record in caplog.records] == (
        [] if stopped else ["could not start the embedded reprioritizer"]
    )
    assert len(scheduled) == (0 if stopped else 1)
