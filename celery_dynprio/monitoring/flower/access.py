"""Who may see the page, who may act, and from where."""

from __future__ import annotations

import os
from base64 import b64decode
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from flower.utils import strtobool

#: The user in the audit if Flower has no login.
NOBODY: Final = "anonymous"


@dataclass(frozen=True, slots=True)
class Rights:
    """Which users of Flower may act."""

    read_only: bool = False
    #: Names of users, or a function that tells whether a user may; None for all.
    writers: Collection[str] | Callable[[str], bool] | None = None

    def may_act(self, user: str, options: Any) -> bool:
        """Whether this user may act: both Flower's ``options``, as for its own API, and these rights must allow it."""
        open_to_all = strtobool(os.environ.get("FLOWER_UNAUTHENTICATED_API") or "false")
        if self.read_only or options.read_only or not (options.basic_auth or options.auth or open_to_all):
            return False
        if self.writers is None:
            return True
        return bool(self.writers(user)) if callable(self.writers) else user in self.writers


def user_of(handler: Any) -> str:
    """Return the user who is logged in, by OAuth or basic auth, or :data:`NOBODY`."""
    if isinstance(handler.current_user, str):
        return handler.current_user
    if handler.current_user and handler.application.options.basic_auth:
        _, credentials = handler.request.headers["Authorization"].split()
        return b64decode(credentials).decode().partition(":")[0]
    return NOBODY


def is_cross_site(request: Any) -> bool:
    """Whether, according to the browser, a page of another site sent this request."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return bool(site != "same-origin")
    origin = request.headers.get("Origin")
    return origin is not None and urlsplit(origin).netloc != request.host
