"""The threads of ``dynprio top``: one reads the broker, one does what keys ask for, so that no key waits for either."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final, TypeAlias

from celery_dynprio.cli.top.reader import Reader
from celery_dynprio.cli.top.state import State
from celery_dynprio.engine.scores import Scores
from celery_dynprio.errors import DynPrioError
from celery_dynprio.hosting.orm import close_connections

if TYPE_CHECKING:
    from celery_dynprio.app import DynPrio
    from celery_dynprio.operators.operations import Operations

#: Seconds after which the broker is tried again.
RETRY: Final = 1.0

#: A read that took so long is followed by a pause this many times as long: filters read all that waits.
REST: Final = 3.0

#: Seconds that an operation may still take when the operator quits. A broker that does not answer takes many more.
GRACE: Final = 1.0

#: Seconds for which the result of an operation is shown.
SHOWN: Final = 5.0

#: An operation; it returns the message to show.
Act: TypeAlias = "Callable[[Operations], str]"


class Background:
    """Reads into the state again and again, and does things one after the other.

    Both threads are daemons: one that hangs on the broker does not keep
    the process.
    """

    def __init__(self, dynprio: DynPrio, state: State, interval: float) -> None:
        self._dynprio = dynprio
        self._state = state
        self._interval = interval
        self._warned: Callable[[], str] = str
        self._acts: SimpleQueue[Act | None] = SimpleQueue()
        self._stop, self._look = threading.Event(), threading.Event()
        self._reading = threading.Thread(target=self._read, name="dynprio-top-reading", daemon=True)
        self._doing = threading.Thread(target=self._work, name="dynprio-top-doing", daemon=True)

    def start(self, warned: Callable[[], str]) -> None:
        """Start both threads; ``warned`` tells what others wrote to stderr."""
        self._warned = warned
        self._reading.start()
        self._doing.start()

    def stop(self) -> None:
        """End both; an operation that a key started is still done if the broker answers."""
        self._stop.set()
        self._look.set()
        self._acts.put(None)
        self._doing.join(GRACE)

    def look(self) -> None:
        """Read at once."""
        self._look.set()

    def do(self, act: Act) -> None:
        """Do something over a connection of its own; what it returns, or raises, is shown."""
        self._acts.put(act)

    def _work(self) -> None:
        while (act := self._acts.get()) is not None:
            try:
                with self._dynprio.operations() as operations:
                    message = act(operations)
            except DynPrioError as exc:
                message = str(exc)
            except Exception as exc:  # noqa: BLE001 - a result backend may raise anything; the screen goes on
                message = f"failed: {exc!r}"
            close_connections()
            self._state.set(message=message, message_until=time.time() + SHOWN)
            self.look()

    def _read(self) -> None:
        """Read, again and again; a broker that is away is shown to be, and tried again."""
        patience = Scores(self._dynprio.settings.policy, lambda _: None).patience()
        while not self._stop.is_set():
            try:
                with self._dynprio.operations() as operations:
                    reader = Reader(operations, patience)
                    while not self._stop.is_set():
                        self._refresh(reader)
            except DynPrioError as exc:
                self._state.set(error=str(exc))
            except Exception as exc:  # noqa: BLE001 - whatever it is, it is shown, and the screen goes on
                self._state.set(error=f"reading failed: {exc!r}")
            self._stop.wait(RETRY)

    def _refresh(self, reader: Reader) -> None:
        self._look.clear()
        view = self._state.view
        began = time.monotonic()
        if not view.frozen:
            figures, warned = reader.read(view), self._warned()
            close_connections()  # the user's policy, or the result backend, may be of Django
            self._state.change(lambda current: current.take(view, figures, warned))
        self._look.wait(max(self._interval, REST * (time.monotonic() - began)))
