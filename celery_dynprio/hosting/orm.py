"""Django's databases: their connections are closed again, and tasks are published at a commit."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

logger = logging.getLogger("celery_dynprio.orm")


def close_connections() -> None:
    """Close this thread's connections to Django's databases and caches; without Django, do nothing.

    Celery's ``DjangoWorkerFixup`` does so around each task: otherwise a connection that the server has closed fails
    forever. Call it where user code may have run, and only in threads of this package. Never raises.
    """
    conf, db = sys.modules.get("django.conf"), sys.modules.get("django.db")
    if conf is None or db is None or not conf.settings.configured:
        return
    from django.core.cache import close_caches  # noqa: PLC0415 - there is a Django

    for close in (db.connections.close_all, close_caches):
        try:
            close()
        except Exception as exc:  # noqa: BLE001 - it is broken; Django opens another
            logger.debug("a connection of Django could not be closed: %r", exc)


def on_commit(call: Callable[[], object]) -> None:
    """Run ``call`` when Django's current transaction is committed, at once if there is none."""
    from django.db import transaction  # noqa: PLC0415 - only projects in Django call this

    transaction.on_commit(call)
