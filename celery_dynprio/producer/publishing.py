"""The one receiver of what an app publishes: it completes the ``dynprio`` header, then writes the trace."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from celery import signals

from celery_dynprio.hosting.signals import Connections
from celery_dynprio.message import HEADER
from celery_dynprio.producer.canvas import dependents
from celery_dynprio.producer.router import PLAIN, drafts
from celery_dynprio.tracing.context import current_or_deferred
from celery_dynprio.tracing.ids import new_traceparent
from celery_dynprio.tracing.opentelemetry import is_idle
from celery_dynprio.tracing.span import TRACEPARENT

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
        draft = getattr(drafts, "last", None)
        if (
            draft is not None
            and draft[3] is PLAIN
            and draft[0] is self._router
            and type(headers) is dict
            and headers.get(HEADER) is draft[1]
            and TRACEPARENT not in headers
            and "task" in headers  # protocol 2
            and current_or_deferred() is None
            and is_idle()
            and not dependents(body)
        ):  # the usual case: nothing waits for the task, it is published outside of any task and span
            headers[TRACEPARENT] = new_traceparent()
        else:
            self._write(headers, properties, body)

    def _write(self, headers: Any, properties: Any, body: Any) -> None:
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
