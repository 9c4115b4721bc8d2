"""Celery's default app: shared tasks belong to it in all threads but the one that created an app.

``Celery()`` becomes the current app of its own thread only. In any other thread (a view of a web server, a pool) Celery
falls back to the default app. If nobody set one, Celery makes one up, which has no add-on and whose broker is
amqp://localhost.
"""

from __future__ import annotations

import logging
from typing import Any
from weakref import WeakSet

from celery import Celery, _state

logger = logging.getLogger("celery_dynprio.default_app")


#: The apps that :func:`make_default` made the default app.
_ours: WeakSet[Celery] = WeakSet()


def make_default(app: Celery) -> bool:
    """Make this the default app if nobody has set one; return whether it is now.

    This includes an app that was created with ``set_as_current=False``, since tasks that name no app would otherwise
    have none. It gives way to the next app without that option.
    """
    present = _state.default_app
    gives_way = present in _ours and app.set_as_current and not present.set_as_current
    if not (present is None or _is_fallback(present) or gives_way):
        return False
    app.set_default()
    _ours.add(app)
    return True


def give_back(app: Celery) -> None:
    """Unset the default app if it is still this one."""
    if _state.default_app is app:
        _state.set_default_app(None)


def warn_of_fallback(app: Any) -> None:
    """Warn if the app that is finalized, and so used, is the one that Celery made up."""
    if _is_fallback(app):
        logger.warning(
            "a task declared with @dynprio_task is used where no app is the current or the default one: Celery's own "
            "fallback app publishes it unmanaged, and to amqp://localhost unless it is configured. Call DynPrio(app) "
            "before the task is used, or name the app: @dynprio_task(app=app)"
        )


def _is_fallback(app: Any) -> bool:
    """Whether ``celery._state._get_current_app`` made this app because there was no default app."""
    return isinstance(app, Celery) and app.main == "default" and app.fixups == [] and not app.set_as_current
