"""Imports the user's code as a worker does: the app's modules, and "module:attribute" in a setting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from celery.utils.imports import import_from_cwd
from kombu.utils.imports import symbol_by_name

if TYPE_CHECKING:
    from celery import Celery

#: The attribute that marks an app's loader once its modules are imported.
_LOADED: Final = "_dynprio_loaded"


def load_modules(app: Celery) -> None:
    """Import what a worker of this app imports at its start, once; in Django this sets up the apps.

    As ``celery report`` and ``celery shell`` do. Raises what these modules raise.
    """
    loader = app.loader
    if not getattr(loader, _LOADED, False):
        loader.import_default_modules()
        setattr(loader, _LOADED, True)


def import_symbol(place: str) -> Any:
    """Return what is at "module:attribute"; the working directory counts as on the path, as it does for ``-A``.

    Without it, a module beside the app's would be found by producers and not by ``celery -A proj worker``. Raises what
    the module raises.
    """
    return symbol_by_name(place, imp=import_from_cwd)
