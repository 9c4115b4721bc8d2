"""Those who watch the reprioritizers of one process, as the settings say."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from celery_dynprio.errors import SettingError
from celery_dynprio.models import Report
from celery_dynprio.settings import Settings

if TYPE_CHECKING:
    from celery import Celery


class Observer(Protocol):
    """Is told all that happens in the loop, by the loop: whatever takes time is done elsewhere."""

    def observe(self, report: Report) -> None:
        """Take in what a tick did."""

    def failed(self, queue: str, problem: Exception) -> None:
        """Take in that a tick of this queue failed."""

    def close(self) -> None:
        """Give back what this holds; the loop has ended."""


class Observers:
    """Several that are told the same."""

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        self._observers = observers

    def observe(self, report: Report) -> None:
        """Take in what a tick did."""
        for observer in self._observers:
            observer.observe(report)

    def failed(self, queue: str, problem: Exception) -> None:
        """Take in that a tick of this queue failed."""
        for observer in self._observers:
            observer.failed(queue, problem)

    def close(self) -> None:
        """Give back what they hold; the loop has ended."""
        for observer in self._observers:
            observer.close()


def start(app: Celery, settings: Settings) -> Observers:
    """Start those that are wanted; :class:`~celery_dynprio.errors.SettingError` if one needs what is not installed."""
    port = settings.metrics_port
    if port is not None and importlib.util.find_spec("prometheus_client") is None:
        allowed = 'it needs prometheus-client>=0.20: pip install "celery-dynprio[prometheus]"'
        raise SettingError("dynprio_metrics_port", port, allowed)
    observers: list[Observer] = []
    dropped = None
    if settings.events or settings.objectives:
        from celery_dynprio.monitoring.events import EventSender  # noqa: PLC0415 - costs nothing where it is off

        events = EventSender(app, moves=settings.events)
        observers.append(events)
        dropped = events.dropped
    if port is not None:
        from celery_dynprio.monitoring.prometheus import Served  # noqa: PLC0415 - an extra

        observers.append(Served(app, settings, port, dropped))
    return Observers(observers)
