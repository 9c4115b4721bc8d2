"""Observers of the reprioritizers of one process: events and metrics, as the settings ask for."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Protocol

from celery_dynprio.errors import SettingError
from celery_dynprio.models import Report
from celery_dynprio.ports.installation import Installation
from celery_dynprio.settings import Settings


class Observer(Protocol):
    """Called by the loop with each report and failure; must return at once, and do slow work in another thread."""

    def observe(self, report: Report) -> None:
        """Handle the report of a tick."""

    def failed(self, queue: str, problem: Exception) -> None:
        """Handle the failure of a tick of this queue."""

    def close(self) -> None:
        """Release all resources; the loop has ended."""


class Observers:
    """Several observers as one."""

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        self._observers = observers

    def observe(self, report: Report) -> None:
        """Pass on the report of a tick."""
        for observer in self._observers:
            observer.observe(report)

    def failed(self, queue: str, problem: Exception) -> None:
        """Pass on the failure of a tick of this queue."""
        for observer in self._observers:
            observer.failed(queue, problem)

    def close(self) -> None:
        """Close all of them; the loop has ended."""
        for observer in self._observers:
            observer.close()


def start(installation: Installation, settings: Settings) -> Observers:
    """Start the observers that this process's ``settings`` ask for.

    Raises :class:`~celery_dynprio.errors.SettingError` if a package is missing.
    """
    port = settings.metrics_port
    if port is not None and importlib.util.find_spec("prometheus_client") is None:
        allowed = 'it needs a package: pip install "prometheus-client>=0.20"'
        raise SettingError("dynprio_metrics_port", port, allowed)
    observers: list[Observer] = []
    dropped = None
    if settings.events or settings.objectives:
        from celery_dynprio.monitoring.events import EventSender  # noqa: PLC0415 - costs nothing where it is off

        events = EventSender(installation.app, moves=settings.events)
        observers.append(events)
        dropped = events.dropped
    if port is not None:
        from celery_dynprio.monitoring.prometheus import Served  # noqa: PLC0415 - an extra

        observers.append(Served(installation, settings, port, dropped))
    if settings.record is not None:
        from celery_dynprio.monitoring.recording import Recording  # noqa: PLC0415

        observers.append(Recording(installation, settings.record))
    return Observers(observers)
