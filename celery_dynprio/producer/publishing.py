"""The one receiver of what an app publishes: it completes the ``dynprio`` header, then writes the trace."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from celery import signals

from celery_dynprio.hosting.signals import Connections

if TYPE_CHECKING:
    from celery import Celery

    from celery_dynprio.producer.router import DynPrioRouter
    from celery_dynprio.tracing.propagation import Propagation

#: The headers that this thread wrote last, which tell whether another app has written them already.
_last = threading.local()


class Publishing:
    """Receives ``before_task_publish``. There is one receiver for everything, since each costs a microsecond.

    The header comes first: it may change the task's level, which the trace names.
    """

    def __init__(self, app: Celery, router: DynPrioRouter, propagation: Propagation) -> None:
        self._app = app
        self._router = router
        self._propagation = propagation

    def connections(self) -> Connections:
        """Return what writes into messages while it is connected."""
        return Connections("publishing", self._app, (signals.before_task_publish, self.publishing, None))

    def publishing(self, headers: Any = None, properties: Any = None, body: Any = None, **_: Any) -> None:
        """Write into a message that is about to be published."""
        router = self._router.complete(headers, properties, body)
        # The signal does not name the app. With two apps in a process, the one that has routed the task does it; of a
        # task for no managed queue, the first one.
        if router is None:
            if headers is getattr(_last, "headers", None):
                return
            _last.headers = headers
        elif router is not self._router:
            return
        self._propagation.write(headers, properties, body)
