"""Add the page Priorities to Flower, by the means of Tornado and Flower: handlers, a template loader, events."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from celery_dynprio.errors import DynPrioError

#: What is supported: from the first, below the second. The theme switch and read-only users came with Flower 2.1.
OLDEST: Final = (2, 1)
NEXT: Final = (3, 0)

_REMEDY: Final = 'pip install "flower>=2.1,<3"'


def install(*, read_only: bool = False, writers: Collection[str] | Callable[[str], bool] | None = None) -> None:
    """Add the page; call it in ``flowerconfig.py``. A second call only replaces the rights.

    With ``read_only`` nobody may act. With ``writers`` only these users of Flower may (or those for whom it returns
    True). Otherwise everybody may who can revoke tasks with Flower's API. Raises
    :class:`~celery_dynprio.errors.DynPrioError` for a version of Flower that is not supported.
    """
    _check_version()
    from flower import app, urls  # noqa: PLC0415 - an extra; the line before reports that it is missing

    from celery_dynprio.monitoring.flower.access import Rights  # noqa: PLC0415
    from celery_dynprio.monitoring.flower.feed import FollowedEvents  # noqa: PLC0415
    from celery_dynprio.monitoring.flower.handlers import routes  # noqa: PLC0415
    from celery_dynprio.monitoring.flower.templating import PageLoader  # noqa: PLC0415

    loader = PageLoader(Path(urls.settings["template_path"]), Path(__file__).parent / "templates")
    if loader.missing():
        raise DynPrioError(
            f"Flower {version('flower')} has unexpected templates ({', '.join(loader.missing())}): {_REMEDY}"
        )
    added = routes(Rights(read_only=read_only, writers=writers))
    names = {route.name for route in added}
    # In place, since flower.app holds this very list; before the rest, whose last route takes everything.
    urls.handlers[:] = [*added, *(each for each in urls.handlers if getattr(each, "name", None) not in names)]
    urls.settings["template_loader"] = loader
    app.Events = FollowedEvents  # what Flower makes at its start


def _check_version() -> None:
    try:
        found = version("flower")
    except PackageNotFoundError:
        raise DynPrioError(f"Flower is not installed: {_REMEDY}") from None
    numbers = re.match(r"(\d+)\.(\d+)", found)
    if numbers is None or not OLDEST <= (int(numbers[1]), int(numbers[2])) < NEXT:
        raise DynPrioError(f"the page Priorities does not support Flower {found}: {_REMEDY}")
