"""The requests of the page. What waits for the broker runs in threads, never in Tornado's loop."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from flower.views import BaseHandler
from tornado.web import HTTPError, RequestHandler, StaticFileHandler, URLSpec, authenticated

from celery_dynprio.errors import ArgumentError, DynPrioError, NotPendingError
from celery_dynprio.monitoring.flower.source import Source, Wanted

T = TypeVar("T")

#: Reads and deeds at a time, and so connections to the broker.
THREADS: Final = 4

#: Nothing but Flower's own files and ours; Flower's templates have styles in place.
POLICY: Final = (
    "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
)

_executor: Final = ThreadPoolExecutor(THREADS, "dynprio")


@dataclass(frozen=True, slots=True)
class Rights:
    """Who may act."""

    read_only: bool = False
    writers: Collection[str] | Callable[[str], bool] | None = None

    def may(self, user: str) -> bool:
        """Whether this user may act, as far as it is ours to say."""
        if self.read_only:
            return False
        if self.writers is None:
            return True
        return bool(self.writers(user)) if callable(self.writers) else user in self.writers


class PageHandler(BaseHandler):
    """What all requests have in common."""

    def initialize(self, rights: Rights) -> None:
        """Tornado's constructor."""
        self._rights = rights

    def set_default_headers(self) -> None:
        """Flower's, and that nothing but our own scripts may run; other origins may read nothing, ever."""
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Content-Security-Policy", POLICY)
        self.set_header("Cache-Control", "no-store")

    def check_xsrf_cookie(self) -> None:
        """Refuse other sites, and always ask for the token: Flower does so with OAuth only."""
        site, origin = self.request.headers.get("Sec-Fetch-Site"), self.request.headers.get("Origin")
        if site not in {None, "same-origin"} or (origin and urlsplit(origin).netloc != self.request.host):
            raise HTTPError(403, "Cross-site request forbidden")
        RequestHandler.check_xsrf_cookie(self)

    @property
    def user(self) -> str:
        """Whom Flower knows: by OAuth, by basic auth, or nobody in particular."""
        if isinstance(self.current_user, str):
            return self.current_user
        if self.application.options.basic_auth:
            credentials = self.request.headers.get("Authorization", "").partition(" ")[2]
            return b64decode(credentials).decode().partition(":")[0]
        return "anonymous"

    @property
    def may_act(self) -> bool:
        """Whether this user may act: what Flower asks for a revoke, and then our own rights."""
        options = self.application.options
        known = bool(options.basic_auth or options.auth or self.unauthenticated_api)
        return known and not options.read_only and self._rights.may(self.user)

    async def answer(self, work: Callable[[], T]) -> None:
        """Answer with what the work returns as JSON, or with what went wrong in words."""
        try:
            found: Any = await asyncio.get_running_loop().run_in_executor(_executor, work)
        except NotPendingError as exc:
            self.set_status(404)
            found = {"error": str(exc)}
        except ArgumentError as exc:
            self.set_status(400)
            found = {"error": str(exc)}
        except DynPrioError as exc:
            self.set_status(503)
            found = {"error": str(exc)}
        self.set_header("Content-Type", "application/json; charset=UTF-8")
        self.finish(json.dumps(found))

    @property
    def source(self) -> Source:
        """What is known of this Flower's app."""
        return Source.of(self.application.capp)


class Page(PageHandler):
    """The page itself, which asks for the rest."""

    @authenticated
    def get(self) -> None:
        """Show it."""
        self.render("dynprio_page.html", may_act=self.may_act, dynprio_version=version("celery-dynprio"))


class Data(PageHandler):
    """All that the page shows, once a second or two."""

    @authenticated
    async def get(self) -> None:
        """Answer with figures, one page of the table, the log and the use."""
        plain = {name: self.get_argument(name, "", escape=False) for name in ("search", "sort")}
        try:
            wanted = Wanted(
                plain["search"][:200],
                plain["sort"],
                descending=self.get_argument("descending", "") == "1",
                start=max(int(self.get_argument("start", "0")), 0),
                count=min(max(int(self.get_argument("count", "25")), 1), 200),
            )
        except ValueError as exc:
            raise HTTPError(400, "start and count are whole numbers") from exc
        source = self.source
        await self.answer(lambda: source.data(wanted))


class Reasons(PageHandler):
    """Why a task is where it is, and what belongs to its trace."""

    @authenticated
    async def get(self, task_id: str) -> None:
        """Answer with what is known of a task."""
        source = self.source
        await self.answer(lambda: source.about(task_id))


class Deed(PageHandler):
    """What an operator does."""

    @authenticated
    async def post(self) -> None:
        """Do it, and answer with what became of it."""
        if not self.may_act:
            raise HTTPError(403, "You may look, but not act")
        try:
            asked = json.loads(self.request.body)
            op, ids = str(asked["op"]), [str(each) for each in asked.get("ids", [])][:1000]
            changes, why = dict(asked.get("changes", {})), str(asked.get("why", ""))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
            raise HTTPError(400, "not an operation") from exc
        source, user = self.source, self.user
        await self.answer(lambda: source.act(user, op, ids, changes, why))


def routes(rights: Rights) -> list[URLSpec]:
    """The routes of the page; Flower puts its prefix before them."""
    given = {"rights": rights}
    return [
        URLSpec(r"/priorities", Page, given, name="dynprio"),
        URLSpec(r"/priorities/data", Data, given, name="dynprio_data"),
        URLSpec(r"/priorities/task/(.+)", Reasons, given, name="dynprio_task"),
        URLSpec(r"/priorities/do", Deed, given, name="dynprio_do"),
        URLSpec(
            r"/priorities/static/(.+)",
            StaticFileHandler,
            {"path": str(Path(__file__).parent / "static")},
            name="dynprio_static",
        ),
    ]
