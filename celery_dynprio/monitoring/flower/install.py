"""Put the page Priorities into Flower, through what Tornado and Flower offer: handlers, and a template loader."""

from __future__ import annotations

from collections.abc import Callable, Collection
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from celery_dynprio.errors import DynPrioError

#: The major version of Flower whose templates and handlers this knows.
SUPPORTED: Final = 2


def install(*, read_only: bool = False, writers: Collection[str] | Callable[[str], bool] | None = None) -> None:
    """Add the page; call it in ``flowerconfig.py``. Doing it twice replaces the rights only.

    With ``read_only`` nobody may act, with ``writers`` only these users of Flower (or those for whom it returns True);
    without, whoever may revoke tasks in Flower. Raises :class:`~celery_dynprio.errors.DynPrioError` for a Flower
    that is not supported.
    """
    _check_version()
    from flower import urls  # noqa: PLC0415 - an extra: told by the line before if it is missing

    from celery_dynprio.monitoring.flower.handlers import Rights, routes  # noqa: PLC0415
    from celery_dynprio.monitoring.flower.templating import PageLoader  # noqa: PLC0415

    added = routes(Rights(read_only=read_only, writers=writers))
    names = {route.name for route in added}
    # In place, since flower.app holds this very list; before the rest, whose last route takes everything.
    urls.handlers[:] = [*added, *(each for each in urls.handlers if _name(each) not in names)]
    urls.settings["template_loader"] = PageLoader(urls.settings["template_path"], Path(__file__).parent / "templates")


def _name(route: Any) -> str | None:
    return getattr(route, "name", None)


def _check_version() -> None:
    try:
        found = version("flower")
    except PackageNotFoundError:
        raise DynPrioError("Flower is not installed: pip install 'celery-dynprio[flower]'") from None
    if found.split(".")[0] != str(SUPPORTED):
        raise DynPrioError(f"Flower {found} is not supported by the page Priorities: install flower>=2,<3")
