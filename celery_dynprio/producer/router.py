"""The producer side: each task for a managed queue gets its header and its first level, without any network.

The router sees a call before Celery makes a message of it, and may raise; what is known only with the message (what
waits for the task, whether it replaces another) is completed in Celery's ``before_task_publish`` signal.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from celery._state import get_current_worker_task
from celery.utils.collections import lpmerge
from kombu.transport.virtual.exchange import STANDARD_EXCHANGE_TYPES

from celery_dynprio import message
from celery_dynprio.complaints import Complaints
from celery_dynprio.errors import OptionError
from celery_dynprio.levels import Bands, Scale
from celery_dynprio.message import HEADER
from celery_dynprio.models import Context, PendingTask
from celery_dynprio.policies import Policy, Scorer
from celery_dynprio.producer.canvas import UNLOCK, body_of_chord, dependents
from celery_dynprio.protocol1 import is_protocol_1, of_body
from celery_dynprio.task import Doubt, call_fields, check_call, options_of, refuse
from celery_dynprio.tracing import context as tracing

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger("celery_dynprio.router")

#: The option of a call, and the name under which a route may give the same.
OPTION: Final = "dynprio"

#: Seconds for which a bound policy is used again: what it reads (see Gauge) is not read with each publish.
BOUND_SECONDS: Final = 5.0

#: How many tasks that look different are remembered for as long.
MAX_KNOWN: Final = 10_000

#: kombu's own reading of topics.
TOPIC: Final[Any] = STANDARD_EXCHANGE_TYPES["topic"]

#: The score of a task that the policy cannot score.
MIDDLE: Final = 0.5


#: The arguments of a call of which a queue is asked, and that is not published now.
_UNKNOWN: Final = object()


class Placement:
    """Gives tasks their first level: the policy's score, in equal bands. A policy that fails means the middle.

    ``scale`` is how the broker numbers the levels. Tasks are published only to levels that workers
    without the add-on take from as well: to the last such level that is not behind the one they belong to.
    """

    def __init__(self, policy: Policy, scale: Scale) -> None:
        self.scale = scale
        self._priorities = tuple(map(scale.number_of, scale.levels))
        self._policy = policy
        self._bands = Bands.equal(len(scale.levels))
        self._bound: tuple[float, Scorer, dict[tuple[Any, ...], int]] | None = None
        self.complain = Complaints(logger, "the policy failed at publishing, tasks start in the middle: %s")

    def priority(self, task_id: str, name: str, header: Mapping[str, Any]) -> int:
        """Return the kombu priority of a task that is published now with this header."""
        pin: int | None = header.get("pin")
        if pin is not None:
            return self._priorities[pin]
        now: float = header["at"]
        bound = self._bound
        if bound is None or not 0 <= now - bound[0] < BOUND_SECONDS:
            bound = self._bind(now)
        at, scorer, known = bound
        # All times are told as if this moment were the one at which the policy was bound.
        due: float | None = header.get("due")
        slack = None if due is None else int((due - now) * 1000)  # milliseconds, so that calls look alike
        seen = task_id, name, header.get("w", 1.0), slack, header.get("key"), header.get("n", 0)
        priority = known.get(seen)
        if priority is None:
            deadline = None if slack is None else at + slack / 1000
            task = PendingTask(task_id, name, at, seen[2], deadline, seen[4], seen[5])
            priority = self._priorities[self._bands.level(self._score(scorer, task))]
            if len(known) < MAX_KNOWN:
                known[seen] = priority
        return priority

    def unmanaged(self, priority: Any) -> Any:
        """Return the priority for an unmanaged queue: that asked for, or the one that kombu's own steps make of it."""
        try:
            level = self.scale.level_of(min(max(int(priority), 0), 9))
        except (TypeError, ValueError):  # kombu ignores it
            return priority
        return priority if self.scale.numbers[level] == self._priorities[level] else self._priorities[level]

    def _bind(self, now: float) -> tuple[float, Scorer, dict[tuple[Any, ...], int]]:
        """Bind the policy for a while, in which tasks that look alike are scored once."""
        try:
            scorer = self._policy.bind(Context(now))
        except Exception as exc:  # noqa: BLE001 - as in _score
            self.complain(repr(exc))
            scorer = _middle
        self._bound = now, scorer, {}
        return self._bound

    def _score(self, scorer: Scorer, task: PendingTask) -> float:
        try:
            score = scorer(task)
            if 0 <= score <= 1:
                return score
            self.complain(f"score {score!r} of task {task.name} is not between 0 and 1")
        except Exception as exc:  # noqa: BLE001 - the user's code may raise anything, and callers must not notice
            self.complain(repr(exc))
        return MIDDLE


@dataclass(frozen=True, slots=True)
class Plan:
    """What the router needs of the app's settings."""

    #: The managed queues.
    queues: frozenset[str]
    placement: Placement
    #: The app's ``task_default_queue``; here because a look into Celery's settings takes microseconds.
    default_queue: str
    #: Whether subtasks take key, weight and deadline from their parent.
    inherit: bool
    #: Whether a call fails whose key cannot be found or is too long.
    strict: bool = False


class _Call(NamedTuple):
    """A call of a task, on its way into a message."""

    name: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    #: The task, None if it is not known.
    task: Any
    options: dict[str, Any]
    #: Is given what is wrong with the data of the call.
    doubt: Doubt
    #: Fields of the header that the route or the call itself asks for.
    asked: dict[str, Any]


class DynPrioRouter:
    """Stands in for ``Router.route`` of Celery's router: the user's routes decide, then managed tasks get their level.

    ``plan`` is called with each publish; None means that the broker cannot have managed queues. ``clock`` gives Unix
    seconds.
    """

    def __init__(self, app: Celery, plan: Callable[[], Plan | None], clock: Callable[[], float] = time.time) -> None:
        self._app = app
        self._plan = plan
        self._clock = clock
        self._local = threading.local()
        self._complain = Complaints(logger, "published without a hint that is wrong: %s")

    def route(  # noqa: PLR0917 - as Celery calls it
        self, celery: Any, options: Any, name: str, args: Any = _UNKNOWN, kwargs: Any = None, task_type: Any = None
    ) -> dict[str, Any]:
        """Route a call as ``celery``, Celery's own router, does; return a new dict of what to publish with.

        Nothing that is given is changed: it may belong to a signature that is used again, to a task, to the user's
        routes, or be the arguments of another task (``Backend.fallback_chord_unlock`` asks for a queue like that).
        """
        now, plan = self._clock(), self._plan()
        doubt = refuse if plan is not None and plan.strict else self._complain
        if args is _UNKNOWN:
            args, doubt = (), _pass
        call = _Call(name, args or (), kwargs or {}, task_type, dict(options), doubt, {})
        call = self._merged(celery, call, plan, now)
        routed = call.options
        if plan is not None and self._is_for(plan, celery.queues, routed):
            if name == UNLOCK:
                call = self._of_body(celery, call, plan, now)
            check_call(call.name, call.options)
            header = self._header(call, plan, now)
            headers = routed.get("headers")
            routed["headers"] = {**headers, HEADER: header} if headers else {HEADER: header}
            routed["priority"] = plan.placement.priority("", call.name, header)
            self._local.draft = header, call.asked
        elif plan is not None and routed.get("priority"):
            routed["priority"] = plan.placement.unmanaged(routed["priority"])
        return routed

    def _merged(self, celery: Any, call: _Call, plan: Plan | None, now: float) -> _Call:
        """Merge options and route as ``Router.route`` does, but over a copy of the route."""
        name = call.name
        given = celery.expand_destination(call.options)
        route = celery.lookup_route(name, call.args, call.kwargs, given, call.task) if celery.routes else None
        option = given.pop(OPTION, None)
        asked = {} if option is None else call_fields(name, option, now, call.doubt)
        if route:
            route = {"queue": route} if isinstance(route, str) else dict(route)
            option = route.pop(OPTION, None)
            if option is not None:
                asked = {**call_fields(name, option, now, call.doubt), **asked}
            given = lpmerge(celery.expand_destination(route), given)
        elif "queue" not in given:
            queue = self._app.conf.task_default_queue if plan is None else plan.default_queue
            # A dict's own look-up knows no aliases and makes no queues, and is far quicker.
            given["queue"] = celery.queues.get(queue) or celery.expand_destination(queue)["queue"]
        headers = given.get("headers")
        if headers and message.says_options(headers.get(HEADER)):
            asked = {**call_fields(name, headers[HEADER], now, call.doubt, call.doubt), **asked}
        task = call.task or self._app._tasks.get(name)  # noqa: SLF001 - app.tasks would finalize the app
        return _Call(name, call.args, call.kwargs, task, given, call.doubt, asked)

    def _of_body(self, celery: Any, call: _Call, plan: Plan, now: float) -> _Call:
        """Of a call that waits for the parts of a chord: the call of the body that it is going to make."""
        headers = call.options.get("headers")
        again = "origin" in call.options and headers and headers.get(HEADER) is not None  # a retry keeps what it had
        body = None if again else body_of_chord(call.args)
        if body is None:
            return call
        name = body["task"]
        task = self._app._tasks.get(name)  # noqa: SLF001 - as in _merged
        declared = {} if task is None else task._get_exec_options()  # noqa: SLF001 - as Task.apply_async does
        options = {**{k: v for k, v in declared.items() if v is not None}, **body["options"]}
        results = () if body.get("immutable") else (None,)  # what they are is not known yet
        args = (*results, *(body.get("args") or ()))
        return self._merged(celery, _Call(name, args, body.get("kwargs") or {}, task, options, _pass, {}), plan, now)

    def _is_for(self, plan: Plan, queues: Any, routed: Mapping[str, Any]) -> bool:
        """Whether the message will reach a managed queue (the rules of ``AMQP.send_task_message``)."""
        queue, exchange, routing_key = routed.get("queue"), routed.get("exchange"), routed.get("routing_key")
        if queue is None and exchange is None:
            queue = queues.get(plan.default_queue) or queues[plan.default_queue]
        kind = routed.get("exchange_type") or (queue.exchange.type if queue is not None else "direct")
        if kind == "direct" and (not exchange or not routing_key):
            return queue is not None and queue.name in plan.queues
        if queue is not None:
            exchange, routing_key = exchange or queue.exchange, routing_key or queue.routing_key
        routing_key = routing_key or self._app.conf.task_default_routing_key
        name: Any = getattr(exchange, "name", exchange)
        return any(each.name in plan.queues and _bound(each, name, routing_key) for each in queues.values())

    def _header(self, call: _Call, plan: Plan, now: float) -> dict[str, Any]:
        """What the call asks for, before what its task declares, before what comes from a parent or an earlier try."""
        parent, levels = self._parent(), len(plan.placement.scale.levels)
        options = call.options
        headers = options.get("headers")
        old = headers.get(HEADER) if headers else None
        if message.says_options(old):  # they are among what is asked for
            old = None
        # Only Task.signature_from_request, which retries are made of, passes on where a message came from.
        again = parent is not None and "origin" in options
        if old is None and parent is not None and plan.inherit and not again:
            old = parent.get(HEADER)
        task = call.task
        header = {} if task is None else options_of(task).fields(call.name, call.args, call.kwargs, now, call.doubt)
        if old is not None:
            inherited = _inherited(old, levels)
            header = inherited if again and isinstance(old, dict) else {**inherited, **header}
        if call.asked:
            header.update(call.asked)
        header["at"] = now
        priority = options.get("priority")
        pin = None if priority is None else self._pin(priority, parent, plan.placement.scale, again=again)
        if pin is None and again:
            pin = _pinned(old, levels)
        if pin is not None:
            header["pin"] = pin
        if None in header.values():
            return {field: value for field, value in header.items() if value is not None}
        return header

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
        if tracing.spanned() is None:  # which is far quicker to see
            return None
        task = get_current_worker_task()
        return None if task is None else task.request

    def complete(self, *, headers: Any = None, properties: Any = None, body: Any = None, **_: Any) -> None:
        """Receive ``before_task_publish``: add what only the message tells, and place the task again. Never raises."""
        # A header on its way into a message, and the fields of it that the call itself asked for.
        draft: tuple[dict[str, Any], Mapping[str, Any]] | None = getattr(self._local, "draft", None)
        if draft is None or not isinstance(headers, dict) or headers.get(HEADER) is not draft[0]:
            return
        header, asked = draft
        plan = self._plan()
        if plan is None:
            return
        try:
            about: Mapping[str, Any] = headers
            if is_protocol_1(headers) and isinstance(body, Mapping):
                about = body
                header.update(of_body(body))
            waiting, nesting = dependents(body), headers.get("replaced_task_nesting")
            if not waiting and not nesting:
                return
            replaced = nesting and self._replace(header, asked, nesting, len(plan.placement.scale.levels))
            if waiting:
                header["n"] = waiting
            if waiting or replaced:
                name, task_id = str(about.get("task")), str(about.get("id"))
                properties["priority"] = plan.placement.priority(task_id, name, header)
        except Exception as exc:  # noqa: BLE001 - publishing goes on with what the router set
            plan.placement.complain(repr(exc))

    def _replace(self, header: dict[str, Any], asked: Mapping[str, Any], nesting: int, levels: int) -> bool:
        """Give what replaces the running task (``Task.replace``) the fields of that, except those asked for."""
        parent = self._parent()
        if parent is None or nesting <= (parent.get("replaced_task_nesting") or 0):
            return False
        old = parent.get(HEADER)
        kept = {**_inherited(old, levels), "pin": _pinned(old, levels)}
        chosen = {*asked, "pin"} if "pin" in header else asked
        header.update({k: v for k, v in kept.items() if v is not None and k not in chosen})
        return True


def _pass(error: OptionError) -> None:
    """Say nothing: the arguments are not known yet, and the call that has them will say it."""


def _middle(task: PendingTask) -> float:  # noqa: ARG001 - it scores all alike
    return MIDDLE


def _bound(queue: Any, exchange: str, routing_key: str) -> bool:
    """Whether a message to this exchange reaches the queue; in Redis a fanout exchange reaches no list."""
    if queue.exchange.name != exchange:
        return False
    if queue.exchange.type == "topic":
        return bool(re.match(TOPIC(None).key_to_pattern(queue.routing_key), routing_key))
    return bool(queue.exchange.type == "direct" and queue.routing_key == routing_key)


def _inherited(fields: Any, levels: int) -> dict[str, Any]:
    """The fields that a header hands on to subtasks and retries; what is not as it should be counts as absent."""
    if not isinstance(fields, dict):
        return {}
    old = message.from_header("", "", fields, 0.0, levels)
    handed = {"w": old.weight if "w" in fields else None, "due": old.deadline, "key": old.key}
    return {field: value for field, value in handed.items() if value is not None}


def _pinned(fields: Any, levels: int) -> int | None:
    return message.from_header("", "", fields, 0.0, levels).pinned if isinstance(fields, dict) else None
