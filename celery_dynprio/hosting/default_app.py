"""Celery's default app: the one whose tasks shared tasks are in every thread but the one that created an app.

``Celery()`` becomes the current app of its own thread only. In any other thread (a view of a web server, a pool) Celery
falls back to the default app, and if nobody set one, to an app that it makes up: with no add-on, and with a broker on
amqp://localhost.
"""

from __future__ import annotations

import logging
from typing import Any
from weakref import WeakSet

from celery import Celery, _state

logger = logging.getLogger("celery_dynprio.default_app")


#: The apps that :func:`make_default` made the default one.
_ours: WeakSet[Celery] = WeakSet()


def make_default(app: Celery) -> bool:
    """Make this the default app if nobody has set one; tell whether it was done.

    An app that is not to be the current one of its own thread (``set_as_current=False``) is made the default one too,
    as tasks that name no app would otherwise have none; it gives way to the next that is to be current.
    """
    present = _state.default_app
    gives_way = present in _ours and app.set_as_current and not present.set_as_current
    if not (present is None or _is_fallback(present) or gives_way):
        return False
    app.set_default()
    _ours.add(app)
    return True


def give_back(app: Celery) -> None:
    """Let there be no default app again, if this still is it."""
    if _state.default_app is app:
        _state.set_default_app(None)


def warn_of_fallback(app: Any) -> None:
    """Warn if the app that is being finalized, and so used, is the one that Celery made up."""
    if _is_fallback(app):
        logger.warning(
            "a task declared with @dynprio_task is used where no app is the current or the default one: Celery's own "
            "fallback app publishes it unmanaged, and to amqp://localhost unless it is configured. Call DynPrio(app) "
            "before the task is used, or name the app: @dynprio_task(app=app)"
        )


def _is_fallback(app: Any) -> bool:
    """Whether this is what ``celery._state._get_current_app`` makes where there is no default app."""
    return isinstance(app, Celery) and app.main == "default" and app.fixups == [] and not app.set_as_current
