"""Celery's signals: what belongs together is connected and disconnected together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from celery import Celery

#: A signal, what receives it, and the sender that it is received from; None for any.
Connection: TypeAlias = tuple[Any, Callable[..., Any], Any]


class Connections:
    """What one part of the add-on, ``name``, receives for one app; doing anything twice changes nothing.

    Of two values with the same name and app only the first that connects is connected, and any of them disconnects it.
    """

    def __init__(self, name: str, app: Celery, *rows: Connection) -> None:
        self._uid = f"dynprio-{name}-{id(app)}"
        self._rows = rows

    def connect(self) -> None:
        """Receive the signals from now on."""
        for signal, receiver, sender in self._rows:
            signal.connect(receiver, sender=sender, weak=False, dispatch_uid=self._uid)

    def disconnect(self) -> None:
        """Receive them no more."""
        for signal, _, sender in self._rows:
            signal.disconnect(sender=sender, dispatch_uid=self._uid)
