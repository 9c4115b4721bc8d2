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
from typing import TYPE_CHECKING, Any, Final

from celery._state import get_current_worker_task
from celery.app.routes import Router
from kombu.transport.virtual.exchange import STANDARD_EXCHANGE_TYPES

from celery_dynprio import message, tracing
from celery_dynprio.levels import Bands
from celery_dynprio.message import HEADER
from celery_dynprio.models import Context, PendingTask
from celery_dynprio.policies import Policy, Scorer
from celery_dynprio.task import call_fields, options_of

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger(__name__)

#: The option of a call, and the name under which a route may give the same.
OPTION: Final = "dynprio"

#: Seconds for which a bound policy is used again: what it reads (see Gauge) is not read with each publish.
BOUND_SECONDS: Final = 5.0

#: How many tasks that look different are remembered for as long.
MAX_KNOWN: Final = 10_000

COMPLAINT_INTERVAL: Final = 60.0

#: kombu's own reading of topics.
TOPIC: Final[Any] = STANDARD_EXCHANGE_TYPES["topic"]

#: The score of a task that the policy cannot score.
MIDDLE: Final = 0.5


class Placement:
    """Gives tasks their first level: the policy's score, in equal bands. A policy that fails means the middle.

    ``steps`` are kombu's ``priority_steps``, one for each level.
    """

    def __init__(self, policy: Policy, steps: Sequence[int]) -> None:
        self.steps = tuple(steps)
        self._policy = policy
        self._bands = Bands.equal(len(self.steps))
        self._bound: tuple[float, Scorer, dict[tuple[Any, ...], int]] | None = None
        self._next_complaint = 0.0

    def priority(self, task_id: str, name: str, header: Mapping[str, Any]) -> int:
        """Return the kombu priority of a task that is published now with this header."""
        pin: int | None = header.get("pin")
        if pin is not None:
            return self.steps[pin]
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
            priority = self.steps[self._bands.level(self._score(scorer, task))]
            if len(known) < MAX_KNOWN:
                known[seen] = priority
        return priority

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

    def complain(self, problem: str) -> None:
        """Log a problem, once a minute at most."""
        now = time.monotonic()
        if now >= self._next_complaint:
            self._next_complaint = now + COMPLAINT_INTERVAL
            logger.error("the policy failed at publishing, tasks start in the middle: %s", problem)


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


class DynPrioRouter:
    """The one entry of the app's routing table: the user's routes decide, then managed tasks are given their level.

    ``plan`` is called with each publish; None means that the broker cannot have managed queues. ``routes`` are the
    user's and ``queues`` the app's, as Celery's own router has them. ``clock`` gives Unix seconds.
    """

    def __init__(self, app: Celery, plan: Callable[[], Plan | None], clock: Callable[[], float] = time.time) -> None:
        self.routes: Sequence[Any] = ()
        self.queues: Any = {}
        self._app = app
        self._plan = plan
        self._clock = clock
        self._local = threading.local()

    def route(
        self, name: str, args: Any = None, kwargs: Any = None, options: Any = None, task: Any = None, **_: Any
    ) -> Any:
        """Route one call; called by Celery, which merges ``options`` over the route that is returned."""
        options = {} if options is None else options
        route = Router(self.routes).lookup_route(name, args, kwargs, options, task) if self.routes else None
        asked = options.pop(OPTION, None)
        if isinstance(route, Mapping) and OPTION in route:
            route = dict(route)
            asked = {**route.pop(OPTION), **(asked or {})}
        now = self._clock()
        fields = {} if asked is None else call_fields(name, asked, now)
        plan = self._plan()
        if plan is None:
            return route
        # No copy where there is no route: the options get what Celery would otherwise look up again.
        call = _merged(route, options) if route else options
        if self._is_for(plan, call, routed=bool(route)):
            task = task or self._app._tasks.get(name)  # noqa: SLF001 - app.tasks would finalize the app
            declared = {} if task is None else options_of(task).fields(name, args or (), kwargs or {}, now)
            header = self._header(call, options, plan, now, declared, fields)
            headers = call.get("headers")
            options["headers"] = {**headers, HEADER: header} if headers else {HEADER: header}
            options["priority"] = plan.placement.priority("", name, header)
            self._local.draft = header, fields
        return route

    def _is_for(self, plan: Plan, call: dict[str, Any], *, routed: bool) -> bool:
        """Whether the message will reach a managed queue (the rules of ``AMQP.send_task_message``)."""
        queues, get = self.queues, call.get
        queue, exchange, routing_key = get("queue"), get("exchange"), get("routing_key")
        if queue is None and (exchange is None or not routed):
            queue = plan.default_queue
        if isinstance(queue, str):
            try:
                queue = queues.get(queue) or queues[queue]  # the latter knows aliases and makes queues, and is slow
            except KeyError:  # Celery raises QueueNotFound
                return False
            if not routed:
                # Celery is about to do the same, after a look into its settings that takes longer than all of this.
                call["queue"] = queue
        kind = get("exchange_type") or (queue.exchange.type if queue is not None else "direct")
        if kind == "direct" and (not exchange or not routing_key):
            return queue is not None and queue.name in plan.queues
        if queue is not None:
            exchange, routing_key = exchange or queue.exchange, routing_key or queue.routing_key
        routing_key = routing_key or self._app.conf.task_default_routing_key
        name: Any = getattr(exchange, "name", exchange)
        return any(each.name in plan.queues and _bound(each, name, routing_key) for each in queues.values())

    def _header(  # noqa: PLR0917 - what a header is made of
        self,
        call: Mapping[str, Any],
        options: Mapping[str, Any],
        plan: Plan,
        now: float,
        declared: dict[str, Any],
        asked: Mapping[str, Any],
    ) -> dict[str, Any]:
        """What the call asks for, before what its task declares, before what comes from a parent or an earlier try."""
        parent, levels = self._parent(), len(plan.placement.steps)
        headers = call.get("headers")
        old = headers.get(HEADER) if headers else None
        # Only Task.signature_from_request, which retries are made of, passes on where a message came from.
        again = parent is not None and "origin" in options
        if old is None and parent is not None and plan.inherit and not again:
            old = parent.get(HEADER)
        header = declared
        if old is not None:
            inherited = _inherited(old, levels)
            header = inherited if again and isinstance(old, dict) else {**inherited, **declared}
        if asked:
            header.update(asked)
        header["at"] = now
        priority = call.get("priority")
        pin = None if priority is None else self._pin(priority, parent, plan.placement.steps, again=again)
        if pin is None and again:
            pin = _pinned(old, levels)
        if pin is not None:
            header["pin"] = pin
        if None in header.values():
            return {field: value for field, value in header.items() if value is not None}
        return header

    def _pin(self, priority: Any, parent: Any, steps: Sequence[int], *, again: bool) -> int | None:
        """The level that an explicit ``priority=`` pins a task to, None if there is no such thing."""
        try:
            level = message.level_of(min(max(int(priority), 0), 9), steps)
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
            waiting, nesting = dependents(body), headers.get("replaced_task_nesting")
            if not waiting and not nesting:
                return
            replaced = nesting and self._replace(header, asked, nesting, len(plan.placement.steps))
            if waiting:
                header["n"] = waiting
            if waiting or replaced:
                name, task_id = str(headers.get("task")), str(headers.get("id"))
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


def _merged(route: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Merge as Celery will: an option that is None leaves the route's."""
    chosen = {option: value for option, value in options.items() if value is not None}
    return {**({"queue": route} if isinstance(route, str) else route), **chosen}


def _middle(task: PendingTask) -> float:  # noqa: ARG001 - it scores all alike
    return MIDDLE


def _bound(queue: Any, exchange: str, routing_key: str) -> bool:
    """Whether a message to this exchange reaches the queue; in Redis a fanout exchange reaches no list."""
    if queue.exchange.name != exchange:
        return False
    if queue.exchange.type == "topic":
        return bool(re.match(TOPIC(None).key_to_pattern(queue.routing_key), routing_key))
    return bool(queue.exchange.type == "direct" and queue.routing_key == routing_key)


def dependents(body: Any) -> int:
    """Count the tasks that wait for this one: the rest of its chain and the body of its chord, with all in them.

    ``body`` is that of Celery's task protocol 2: (args, kwargs, embed).
    """
    if not isinstance(body, (tuple, list)):  # protocol 1 does not tell
        return 0
    embed = body[2]
    rest, body_of_chord = embed.get("chain"), embed.get("chord")
    if not rest and not body_of_chord:
        return 0
    waiting: list[Any] = [*(rest or ()), body_of_chord]
    count = 0
    while waiting and count < message.MAX_DEPENDENTS:
        signature = waiting.pop()
        if not isinstance(signature, Mapping):
            continue
        kwargs = signature.get("kwargs") or {}
        waiting += (signature.get("options") or {}).get("chain") or ()
        if signature.get("task") in {"celery.chain", "celery.group"}:
            waiting += kwargs.get("tasks") or ()
        elif signature.get("task") == "celery.chord":
            header = kwargs.get("header") or ()
            waiting += [header] if isinstance(header, Mapping) else header
            waiting.append(kwargs.get("body"))
        else:
            count += 1
    return count


def _inherited(fields: Any, levels: int) -> dict[str, Any]:
    """The fields that a header hands on to subtasks and retries; what is not as it should be counts as absent."""
    if not isinstance(fields, dict):
        return {}
    old = message.from_header("", "", fields, 0.0, levels)
    handed = {"w": old.weight if "w" in fields else None, "due": old.deadline, "key": old.key}
    return {field: value for field, value in handed.items() if value is not None}


def _pinned(fields: Any, levels: int) -> int | None:
    return message.from_header("", "", fields, 0.0, levels).pinned if isinstance(fields, dict) else None
