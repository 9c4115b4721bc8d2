"""The producer side: each task for a managed queue gets its header and its first level, without any network.

The router sees a call before Celery makes a message of it, and may raise; what is known only with the message (what
waits for the task, whether it replaces another) is completed when the message is published.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from celery._state import get_current_worker_task
from celery.utils.collections import lpmerge
from kombu.transport.virtual.exchange import STANDARD_EXCHANGE_TYPES

from celery_dynprio import message
from celery_dynprio.complaints import Complaints
from celery_dynprio.errors import OptionError
from celery_dynprio.levels import Scale
from celery_dynprio.message import HEADER
from celery_dynprio.producer.calls import Call
from celery_dynprio.producer.canvas import UNLOCK, body_of_chord, dependents
from celery_dynprio.producer.placement import Routing
from celery_dynprio.producer.ways import OPTION, Way, is_plain, set_options
from celery_dynprio.protocol1 import is_protocol_1, of_body
from celery_dynprio.task import TaskOptions, call_fields, check_call, options_of, refuse
from celery_dynprio.tracing.context import current_or_deferred
from celery_dynprio.untrusted import number, unix_seconds

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger("celery_dynprio.router")

#: kombu's own reading of topics.
TOPIC: Final[Any] = STANDARD_EXCHANGE_TYPES["topic"]

#: The arguments of a call of which a queue is asked, and that is not published now.
_UNKNOWN: Final = object()

#: Whose header is on its way into a message, the header, the managed queue, and what the call itself asked for of it.
_Draft: TypeAlias = "tuple[DynPrioRouter, dict[str, Any], str, Mapping[str, Any], Routing]"

#: Its attribute ``last`` is the draft that this thread wrote last, whatever its app.
drafts: Final = threading.local()

#: What a plain call asks for. It comes from outside of any task, and with no other headers.
PLAIN: Final[Mapping[str, Any]] = {}


class DynPrioRouter:
    """Stands in for ``Router.route`` of Celery's router: the user's routes decide, then managed tasks get their level.

    ``routing`` returns the same each time, None if the broker cannot have managed queues; it is called when it is first
    needed. ``clock`` gives Unix seconds.
    """

    def __init__(
        self, app: Celery, routing: Callable[[], Routing | None], clock: Callable[[], float] = time.time
    ) -> None:
        self._app = app
        self._routing = routing
        self._clock = clock
        #: By name: a task that was published, and what it declares. Looked up quicker than by a weak reference.
        self._declared: dict[str, tuple[Any, TaskOptions]] = {}
        #: By the task's name.
        self._ways: dict[str, Way] = {}
        self._complain = Complaints(logger, "published without a hint that is wrong: %s")

    def route(  # noqa: PLR0917 - as Celery calls it
        self, celery: Any, options: Any, name: str, args: Any = _UNKNOWN, kwargs: Any = None, task_type: Any = None
    ) -> dict[str, Any]:
        """Route a call as ``celery``, Celery's own router, does; return a new dict of what to publish with.

        Nothing that is given is changed: it may belong to a signature that is used again, to a task, to the user's
        routes, or be the arguments of another task (``Backend.fallback_chord_unlock`` asks for a queue like that).
        """
        way = self._ways.get(name)
        if way is not None and args is not _UNKNOWN and way.leads(celery, options, task_type):
            routing = way.routing
            doubt = refuse if routing.strict else self._complain
            routed = way.take(args or (), kwargs or {}, self._clock(), doubt)
            drafts.last = self, routed["headers"][HEADER], way.name, PLAIN, routing
            return routed
        return self._route(celery, options, name, args, kwargs, task_type)

    def _route(  # noqa: PLR0917 - as route
        self, celery: Any, options: Any, name: str, args: Any, kwargs: Any, task_type: Any
    ) -> dict[str, Any]:
        now, routing = self._clock(), self._routing()
        doubt = refuse if routing is not None and routing.strict else self._complain
        if args is _UNKNOWN:
            args, doubt = (), _ignore
        call = Call(name, args or (), kwargs or {}, task_type, dict(options), doubt, {})
        self._merge(celery, call, routing, now)
        routed = call.options
        queue = None if routing is None else self._managed_queue(routing, celery.queues, routed)
        if routing is not None and queue is not None:
            routed = set_options(routed)
            if name == UNLOCK:
                call = self._call_of_body(celery, call, routing, now)
            elif task_type is not None and is_plain(celery, options, queue):
                self._ways[name] = Way.of(call, options, queue, routing, self._declares(task_type, name))
            check_call(call.name, call.options)
            self._place(routed, call.name, (self, self._header(call, routing, now), queue, call.fields, routing))
        elif routing is not None and routed.get("priority"):
            routed["priority"] = routing.placement.unmanaged(routed["priority"])
        return routed

    @staticmethod
    def _place(routed: dict[str, Any], name: str, draft: _Draft) -> None:
        """Give a call for a managed queue its header, and the level of a call of the task ``name``."""
        _, header, queue, _, routing = drafts.last = draft
        headers = routed.get("headers")
        routed["headers"] = {**headers, HEADER: header} if headers else {HEADER: header}
        routed["priority"] = routing.placement.priority(queue, "", name, header)

    def _merge(self, celery: Any, call: Call, routing: Routing | None, now: float) -> None:
        """Merge options and route as ``Router.route`` does, but over a copy of the route."""
        name, options, doubt = call.name, call.options, call.doubt
        if "queue" in options:
            options = celery.expand_destination(options)
        route = celery.lookup_route(name, call.args, call.kwargs, options, call.task) if celery.routes else None
        option = options.pop(OPTION, None)
        if option is not None:
            call.fields = call_fields(name, option, now, doubt)
        if route:
            route = {"queue": route} if isinstance(route, str) else dict(route)
            option = route.pop(OPTION, None)
            if option is not None:
                call.fields = {**call_fields(name, option, now, doubt), **call.fields}
            options = lpmerge(celery.expand_destination(route), options)
        elif "queue" not in options:
            queue = self._app.conf.task_default_queue if routing is None else routing.default_queue
            # A dict's own look-up knows no aliases and makes no queues, and is far quicker.
            options["queue"] = celery.queues.get(queue) or celery.expand_destination(queue)["queue"]
        headers = options.get("headers")
        if headers and message.says_options(headers.get(HEADER)):
            call.fields = {**call_fields(name, headers[HEADER], now, doubt, doubt), **call.fields}
        call.options = options
        call.task = call.task or self._app._tasks.get(name)  # noqa: SLF001 - app.tasks would finalize the app

    def _call_of_body(self, celery: Any, call: Call, routing: Routing, now: float) -> Call:
        """Of a call that waits for the parts of a chord, return the call of the body that it is going to make."""
        headers = call.options.get("headers")
        again = "origin" in call.options and headers and headers.get(HEADER) is not None  # a retry keeps what it had
        body = None if again else body_of_chord(call.args)
        if body is None:
            return call
        name = body["task"]
        task = self._app._tasks.get(name)  # noqa: SLF001 - as in _merge
        declared = {} if task is None else task._get_exec_options()  # noqa: SLF001 - as Task.apply_async does
        options = {**{k: v for k, v in declared.items() if v is not None}, **body["options"]}
        results = () if body.get("immutable") else (None,)  # what they are is not known yet
        args = (*results, *(body.get("args") or ()))
        body_call = Call(name, args, body.get("kwargs") or {}, task, options, _ignore, {})
        self._merge(celery, body_call, routing, now)
        return body_call

    def _managed_queue(self, routing: Routing, queues: Any, routed: Mapping[str, Any]) -> str | None:
        """Return the managed queue that the message will reach, by the rules of ``AMQP.send_task_message``."""
        queue, exchange, routing_key = routed.get("queue"), routed.get("exchange"), routed.get("routing_key")
        if queue is None and exchange is None:
            queue = queues.get(routing.default_queue) or queues[routing.default_queue]
        kind = routed.get("exchange_type") or (queue.exchange.type if queue is not None else "direct")
        if kind == "direct" and (not exchange or not routing_key):
            return queue.name if queue is not None and queue.name in routing.queues else None
        if queue is not None:
            exchange, routing_key = exchange or queue.exchange, routing_key or queue.routing_key
        routing_key = routing_key or self._app.conf.task_default_routing_key
        name: Any = getattr(exchange, "name", exchange)
        managed = (each for each in queues.values() if each.name in routing.queues)
        return next((each.name for each in managed if _bound(each, name, routing_key)), None)

    def _header(self, call: Call, routing: Routing, now: float) -> dict[str, Any]:
        """What the call asks for, before what its task declares, before what comes from a parent or an earlier try."""
        parent, options, task = self._parent(), call.options, call.task
        headers = options.get("headers")
        old = headers.get(HEADER) if headers else None
        if old is not None and message.says_options(old):  # they are among what is asked for
            old = None
        # Only Task.signature_from_request, which retries are made of, passes on where a message came from.
        again = parent is not None and "origin" in options
        if old is None and parent is not None and routing.inherit and not again:
            old = parent.get(HEADER)
        header: dict[str, Any] = {}
        if task is not None:
            header = self._declares(task, call.name).fields(call.name, call.args, call.kwargs, now, call.doubt)
        if old is not None:
            inherited = _inherited(old, routing.placement.scale)
            if again and isinstance(old, dict):
                header = {**inherited, **_first(old, now)}
            else:
                if inherited.get("due", now) < now:  # or a task that publishes itself would keep it for ever
                    del inherited["due"]
                header = {**inherited, **header}
        if call.fields:
            header.update(call.fields)
        header["at"] = now
        priority = options.get("priority")
        pin = None if priority is None else self._pin(priority, parent, routing.placement.scale, again=again)
        if pin is None and again:
            pin = _pinned(old, routing.placement.scale)
        if pin is not None:
            header["pin"] = pin
        return _known(header)

    def _declares(self, task: Any, name: str) -> TaskOptions:
        """What a task declares."""
        entry = self._declared.get(name)
        if entry is None or entry[0] is not task:
            entry = self._declared[name] = task, options_of(task)
        return entry[1]

    def _pin(self, priority: Any, parent: Any, scale: Scale, *, again: bool) -> int | None:
        """The level that an explicit ``priority=`` pins a task to, None if there is no such thing."""
        try:
            level = scale.level_of(min(max(int(priority), 0), 9))
        except (TypeError, ValueError):  # kombu ignores it
            return None
        conf = self._app.conf
        if priority == conf.task_default_priority:
            return None
        # Celery itself copies the priority that the parent was delivered with: nobody chose that.
        if parent is not None and (again or conf.task_inherit_parent_priority):
            delivery = parent.delivery_info
            if isinstance(delivery, Mapping) and delivery.get("priority") == priority:
                return level if again and priority and parent.get(HEADER) is None else None
        return level

    def _parent(self) -> Any:
        """The request of the task that this worker is running, None outside of any."""
        if current_or_deferred() is None:  # which is far quicker to see
            return None
        task = get_current_worker_task()
        return None if task is None else task.request

    def complete(self, headers: Any, properties: Any, body: Any) -> DynPrioRouter | None:
        """Add to the header of a message what only the message says, and place the task again. Never raises.

        Returns the router whose header it is, None if it has none. It completes the headers that it has written itself.
        """
        draft: _Draft | None = getattr(drafts, "last", None)
        if draft is None or not isinstance(headers, dict) or headers.get(HEADER) is not draft[1]:
            return None
        if draft[0] is self:
            self._complete(draft, headers, properties, body)
        return draft[0]

    def _complete(self, draft: _Draft, headers: dict[str, Any], properties: Any, body: Any) -> None:
        _, header, queue, fields, routing = draft
        try:
            about: Mapping[str, Any] = headers
            if is_protocol_1(headers) and isinstance(body, Mapping):
                about = body
                header.update(of_body(body))
            waiting, nesting = dependents(body), headers.get("replaced_task_nesting")
            replaced = bool(nesting) and self._replace(header, fields, nesting, routing.placement.scale)
            if waiting:
                header["n"] = waiting
            paused = "first" in header and _pause(header, about.get("eta"))
            if waiting or replaced or paused:
                name, task_id = str(about.get("task")), str(about.get("id"))
                properties["priority"] = routing.placement.priority(queue, task_id, name, header)
        except Exception as exc:  # noqa: BLE001 - publishing goes on with what the router set
            routing.placement.complain(repr(exc))

    def _replace(self, header: dict[str, Any], fields: Mapping[str, Any], nesting: Any, scale: Scale) -> bool:
        """Give what replaces the running task (``Task.replace``) the fields of that, except those asked for."""
        parent = self._parent()
        if parent is None or nesting <= (parent.get("replaced_task_nesting") or 0):
            return False
        old = parent.get(HEADER)
        kept = {**_inherited(old, scale), "pin": _pinned(old, scale)}
        chosen = {*fields, "pin"} if "pin" in header else fields
        header.update({k: v for k, v in kept.items() if v is not None and k not in chosen})
        return True


def _known(header: dict[str, Any]) -> dict[str, Any]:
    """Leave out what a call has not."""
    if None in header.values():
        return {field: value for field, value in header.items() if value is not None}
    return header


def _ignore(error: OptionError) -> None:
    """Do nothing: the arguments are not known yet, and the call that has them will complain."""


def _bound(queue: Any, exchange: str, routing_key: str) -> bool:
    """Whether a message to this exchange reaches the queue; in Redis a fanout exchange reaches no list."""
    if queue.exchange.name != exchange:
        return False
    if queue.exchange.type == "topic":
        return bool(re.match(TOPIC(None).key_to_pattern(queue.routing_key), routing_key))
    return bool(queue.exchange.type == "direct" and queue.routing_key == routing_key)


def _inherited(fields: Any, scale: Scale) -> dict[str, Any]:
    """The fields that a header hands on to subtasks and retries; what is not as it should be counts as absent."""
    if not isinstance(fields, dict):
        return {}
    old = message.from_header("", "", fields, 0.0, len(scale.levels))
    handed = {"w": old.weight if "w" in fields else None, "due": old.deadline, "key": old.key}
    return {field: value for field, value in handed.items() if value is not None}


def _first(old: dict[str, Any], now: float) -> dict[str, float]:
    """Since when the task that is tried again has waited."""
    since = message.waiting_since(old)
    since = number(old.get("at")) if since is None else since
    return {} if since is None or since > now else {"first": since}


def _pause(header: dict[str, Any], eta: object) -> bool:
    """Leave out of what a retry has waited the pause that is asked for before it; whether there is one."""
    since, until = message.waiting_since(header), unix_seconds(eta)
    if since is None or until is None or until <= header["at"]:
        return False
    header["first"] = since + until - header["at"]
    return True


def _pinned(fields: Any, scale: Scale) -> int | None:
    levels = len(scale.levels)
    return message.from_header("", "", fields, 0.0, levels).pinned if isinstance(fields, dict) else None
