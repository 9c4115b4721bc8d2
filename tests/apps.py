"""Plain Celery apps of this process, for tests that publish and read without workers."""

from __future__ import annotations

from collections.abc import Sequence

from celery import Celery

from celery_dynprio.levels import AddedSteps


def make_app(url: str, *, prefix: str = "", steps: Sequence[int] = range(10), sep: str | None = None) -> Celery:
    """An app without the add-on, on this broker, with these of kombu's transport options."""
    app = Celery("plain", broker=url, set_as_current=False)
    # A server that waits for a processor is not away.
    given = steps if isinstance(steps, AddedSteps) else list(steps)
    patience = {"socket_timeout": 60, "socket_connect_timeout": 60}
    options = {"priority_steps": given, "global_keyprefix": prefix, **patience} | ({"sep": sep} if sep else {})
    app.conf.update(broker_transport_options=options)
    return app
