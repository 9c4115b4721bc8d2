"""Tracing in a plain app of this process, connected as the add-on does it."""

from __future__ import annotations

from collections.abc import Callable

from celery import Celery

from celery_dynprio.levels import Scale
from celery_dynprio.producer.publishing import Publishing
from celery_dynprio.producer.router import DynPrioRouter
from celery_dynprio.tracing.propagation import Propagation


class Tracing:
    """Follows what an app publishes and runs; ``scale`` is as that of a propagation."""

    def __init__(self, app: Celery, scale: Callable[[], Scale | None] = lambda: None) -> None:
        self.propagation = Propagation(app, scale)
        router = DynPrioRouter(app, lambda: None)
        self._connections = [
            Publishing(app, router, self.propagation).connections(),
            self.propagation.connections(),
        ]

    def connect(self) -> None:
        for each in self._connections:
            each.connect()

    def disconnect(self) -> None:
        for each in self._connections:
            each.disconnect()
