"""What an app's ``app.amqp`` makes is replaced, and given back: its router and its class of connections."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery import Celery


def replace_route(app: Celery, route: Callable[..., dict[str, Any]]) -> None:
    """Let ``route`` stand in for ``Router.route``; it is given Celery's own router first.

    Celery makes a router when it first needs one and when the routes are updated, by ``AMQP.Router``.
    """

    def make_router(queues: Any = None, create_missing: Any = None) -> Any:
        router = type(app.amqp).Router(app.amqp, queues, create_missing)
        router.route = partial(route, router)
        return router

    app.amqp.Router = make_router
    _reread_routes(app)


def restore_route(app: Celery) -> None:
    """Let Celery route again."""
    vars(app.amqp).pop("Router", None)
    _reread_routes(app)


def _reread_routes(app: Celery) -> None:
    vars(app.amqp).pop("router", None)


class ReplacedConnection:
    """The class of an app's connections, in place of which there is another one: what ``replace`` makes of it."""

    def __init__(self, app: Celery, replace: Callable[[Any], Any]) -> None:
        self._amqp = app.amqp
        self._before = vars(app.amqp).get("Connection")
        app.amqp.Connection = self._ours = replace(app.amqp.Connection)

    def restore(self) -> None:
        """Give it back, unless somebody has put another in its place since."""
        if self._amqp.Connection is not self._ours:
            return
        del self._amqp.Connection
        if self._before is not None:
            self._amqp.Connection = self._before
