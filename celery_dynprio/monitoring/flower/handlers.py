"""The requests of the page. Calls to the broker are made in threads, never in Tornado's loop."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flower.views import BaseHandler
from tornado.routing import URLSpec
from tornado.web import HTTPError, RequestHandler, StaticFileHandler, authenticated

from celery_dynprio.errors import ArgumentError, DynPrioError
from celery_dynprio.message import MAX_ID
from celery_dynprio.monitoring.flower.access import Rights, is_cross_site, user_of
from celery_dynprio.monitoring.flower.feed import FollowedEvents
from celery_dynprio.monitoring.flower.source import Source
from celery_dynprio.monitoring.flower.table import MOST_ROWS, TableQuery

#: How many reads and actions run at a time, each with its own connection to the broker.
THREADS: Final = 4

#: How many tasks one request may act on, and how many bytes it may have.
MOST_IDS: Final = 1_000
MOST_BYTES: Final = 1_000_000

#: The browser loads only Flower's files and ours; Bootstrap's styles contain inline images.
SECURITY: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'self'",
}

STATIC: Final = Path(__file__).parent / "static"

_SOURCE: Final = "dynprio_source"

_executor: Final = ThreadPoolExecutor(THREADS, "dynprio")


class PageHandler(BaseHandler):
    """The page itself, which then requests its data."""

    def initialize(self, rights: Rights) -> None:
        """Tornado's constructor."""
        self._rights = rights

    def set_default_headers(self) -> None:
        """Set our headers instead of Flower's, which allow other origins if its API is open."""
        for name, value in SECURITY.items():
            self.set_header(name, value)
        self.set_header("Cache-Control", "no-store")

    @authenticated
    def get(self) -> None:
        """Show it."""
        self.render(
            "dynprio_page.html",
            may_act=self.may_act,
            token=self.xsrf_token.decode(),
        )

    def check_xsrf_cookie(self) -> None:
        """Refuse other sites, and always require the token, which Flower requires with OAuth only."""
        if is_cross_site(self.request):
            raise HTTPError(403, "Cross-site request forbidden")
        RequestHandler.check_xsrf_cookie(self)

    @property
    def may_act(self) -> bool:
        """Whether this user may act."""
        return self._rights.may_act(user_of(self), self.application.options)


class JsonHandler(PageHandler):
    """The base of all handlers that answer with data."""

    async def answer(self, work: Callable[[], Any]) -> None:
        """Answer with the result of the work as JSON, or with an error message."""
        self.finish_json(await self.result(lambda: _executor.submit(work)))

    async def result(self, ask: Callable[[], Future[Any]]) -> Any:
        """Return the result without blocking Tornado's loop; our own errors become messages."""
        try:
            return await asyncio.wrap_future(ask())
        except ArgumentError as exc:
            raise HTTPError(400, "%s", exc) from exc
        except DynPrioError as exc:
            raise HTTPError(503, "%s", exc) from exc

    def finish_json(self, found: Any) -> None:
        """Answer with this."""
        self.set_header("Content-Type", "application/json; charset=UTF-8")
        self.finish(json.dumps(found))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer a bad request with a message; Flower reports the errors of the server."""
        problem = kwargs.get("exc_info", (None, None))[1]
        if not isinstance(problem, HTTPError) or status_code == 401:  # noqa: PLR2004 - Flower asks for the password
            super().write_error(status_code, **kwargs)
            return
        text = problem.log_message % problem.args if problem.log_message else problem.reason or "refused"
        self.finish_json({"error": text})

    @property
    def source(self) -> Source:
        """The source of data for this Flower's app."""
        settings = self.application.settings
        if _SOURCE not in settings:
            settings[_SOURCE] = Source(self.application.capp)
        found: Source = settings[_SOURCE]
        return found


class DataHandler(JsonHandler):
    """All data of the page, requested every other second."""

    @authenticated
    async def get(self) -> None:
        """Answer with figures, one page of the table, the feed and the use."""
        query = self._query()
        events = self.application.events
        moves = events.feed.entries() if isinstance(events, FollowedEvents) else []
        source = self.source
        await self.answer(lambda: source.data(query, moves))

    def _query(self) -> TableQuery:
        # Tornado's own: Flower's escapes what it returns, and not all that is searched for is HTML.
        texts = {name: self.get_query_argument(name, "") for name in ("search", "place", "sort")}
        try:
            start, count = int(self.get_query_argument("start", "0")), int(self.get_query_argument("count", "25"))
            return TableQuery(
                **texts, descending=self.get_query_argument("descending", "") == "1", start=start, count=count
            )
        except ArgumentError as exc:
            raise HTTPError(400, "%s", exc) from exc
        except ValueError as exc:
            raise HTTPError(400, f"start and count are whole numbers; count is {MOST_ROWS} at most") from exc


class TaskHandler(JsonHandler):
    """Why a task is where it is, and its trace."""

    @authenticated
    async def get(self, task_id: str) -> None:
        """Answer with all that is known about a task."""
        if len(task_id) > MAX_ID:
            raise HTTPError(400, f"an id has {MAX_ID} characters at most")
        known = task_id in self.application.events.state.tasks
        source = self.source
        self.finish_json({**await self.result(lambda: source.about(task_id)), "in_flower": known})


class PolicyHandler(JsonHandler):
    """The policy in force."""

    @authenticated
    async def get(self) -> None:
        """Answer with its terms."""
        await self.answer(self.source.policy)


class OutlookHandler(JsonHandler):
    """What comes next under the policy in force, and under another one."""

    def initialize(self, rights: Rights) -> None:
        """Tornado's constructor."""
        super().initialize(rights)
        self._gone = threading.Event()

    def prepare(self) -> None:
        """Let no page of another site make Flower compute."""
        if is_cross_site(self.request):
            raise HTTPError(403, "Cross-site request forbidden")

    def on_connection_close(self) -> None:
        """Stop: the browser does not wait for it any more."""
        self._gone.set()

    @authenticated
    async def get(self) -> None:
        """Answer with who starts when."""
        queue, terms = (self.get_query_argument(name, "") for name in ("queue", "terms"))
        source = self.source
        found = await self.result(lambda: source.outlook(queue, terms, self._gone))
        if not self._gone.is_set():
            self.finish_json(found)


@dataclass(frozen=True, slots=True)
class _Action:
    """The action that a request asks for."""

    op: str
    ids: list[str]
    changes: dict[str, Any]
    why: str


class ActionHandler(JsonHandler):
    """An operator's actions."""

    SUPPORTED_METHODS = ("POST",)

    def prepare(self) -> None:
        """Check the token: Flower 2.1 does not make Tornado do so."""
        self.check_xsrf_cookie()

    @authenticated
    async def post(self) -> None:
        """Act, and answer with the result for each task."""
        if not self.may_act:
            raise HTTPError(403, "You have read-only access")
        action = _read_action(self.request.body)
        source, by = self.source, f"{user_of(self)} (Flower)"
        await self.answer(lambda: {"results": source.act(by, action.op, action.ids, action.changes, action.why)})


def _read_action(body: bytes) -> _Action:
    if len(body) > MOST_BYTES:
        raise HTTPError(413, f"say it in {MOST_BYTES:,} bytes at most")
    try:
        found = json.loads(body)
        action = _Action(found["op"], found.get("ids", []), found.get("changes", {}), found.get("why", ""))
        for text in (action.op, action.why, *action.ids):
            text.encode()  # Redis cannot store a lone surrogate
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise HTTPError(400, "say op, ids, changes and why in a JSON object") from exc
    if not isinstance(action.ids, list) or not isinstance(action.changes, dict) or len(action.ids) > MOST_IDS:
        raise HTTPError(400, f"ids must be a list of {MOST_IDS} at most, and changes an object")
    return action


class AssetHandler(StaticFileHandler):
    """Our styles and scripts."""

    def set_extra_headers(self, path: str) -> None:  # noqa: ARG002 - Tornado's signature
        """Set the headers of the page, and let browsers check for a newer version of the file."""
        for name, value in SECURITY.items():
            self.set_header(name, value)
        self.set_header("Cache-Control", "no-cache")


def routes(rights: Rights) -> list[URLSpec]:
    """The routes of the page; Flower puts its prefix before them."""
    given, files = {"rights": rights}, {"path": str(STATIC)}
    return [
        URLSpec(r"/priorities", PageHandler, given, name="dynprio"),
        URLSpec(r"/priorities/data", DataHandler, given, name="dynprio_data"),
        URLSpec(r"/priorities/task/(.+)", TaskHandler, given, name="dynprio_task"),
        URLSpec(r"/priorities/policy", PolicyHandler, given, name="dynprio_policy"),
        URLSpec(r"/priorities/outlook", OutlookHandler, given, name="dynprio_outlook"),
        URLSpec(r"/priorities/do", ActionHandler, given, name="dynprio_do"),
        # Tornado answers a NUL in a path with 500, so only paths of our own files get further than this.
        URLSpec(r"/priorities/static/([a-z]+\.css|[a-z]+\.js)", AssetHandler, files, name="dynprio_static"),
    ]
