"""Connections of the add-on's own to the app's broker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from celery import Celery

#: Seconds. kombu waits forever by default; a reprioritizer that hangs would keep a lease that it cannot use.
SOCKET_TIMEOUT: Final = 5.0


def new_connection(app: Celery, timeout: float | None = None) -> Any:
    """Return a connection of kombu's as the app's producers have it; it connects when it is first used.

    It is not from the app's pool, which may have none left, and whoever waits for one there waits forever.
    On Redis it gives up after ``timeout`` seconds without an answer. None leaves what the app's transport options say,
    or else :data:`SOCKET_TIMEOUT`.
    """
    connection = app.connection_for_write()
    if connection.transport.driver_type == "redis":
        options = connection.transport_options
        for name in ("socket_timeout", "socket_connect_timeout"):
            options[name] = options.get(name, SOCKET_TIMEOUT) if timeout is None else timeout
    return connection
