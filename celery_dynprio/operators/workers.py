"""Which workers are up, and how many tasks of a queue they can run at once; asked of the workers themselves."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from celery.app.control import flatten_reply

from celery_dynprio.hosting.connections import new_connection
from celery_dynprio.levels import steps_in
from celery_dynprio.message import MAX_ID
from celery_dynprio.untrusted import number, text_of

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger("celery_dynprio.workers")

#: Seconds of silence after which no more answers are expected. Workers answer within milliseconds, but those of the
#: solo pool, which are silent while they run a task.
ANSWER_TIMEOUT: Final = 0.3

#: Settings of workers that are looked at.
CONF: Final = (
    "broker_transport_options",
    "worker_prefetch_multiplier",
    "worker_disable_prefetch",
    "task_acks_late",
    "dynprio_embedded",
)

#: What stands for a number of reserved tasks that is not limited.
NO_LIMIT: Final = 1000

#: Seconds after which workers are asked again how many tasks they run at once.
MAX_AGE: Final = 10.0


class Running(NamedTuple):
    """A task that a worker runs now."""

    id: str
    name: str
    #: Unix seconds, by the worker's clock.
    since: float


@dataclass(frozen=True, slots=True)
class Workers:
    """The workers that answered."""

    #: How many tasks each runs at once, by node name.
    slots: Mapping[str, int] = field(default_factory=dict)
    #: The queues that each takes from.
    queues: Mapping[str, frozenset[str]] = field(default_factory=dict)
    #: How many tasks each takes ahead, beside those that it runs; 0 for one that is not named.
    ahead: Mapping[str, int] = field(default_factory=dict)
    #: What each runs now, of whatever queue; nothing for one that is not named.
    running: Mapping[str, Sequence[Running]] = field(default_factory=dict)

    def of_queue(self, queue: str) -> list[str]:
        """The names of the workers that take from this queue."""
        return [name for name in self.slots if queue in self.queues.get(name, ())]

    def slots_for(self, queue: str) -> int:
        """How many tasks of this queue can run at once, if there are none of others."""
        return sum(self.slots[name] for name in self.of_queue(queue))


@dataclass(frozen=True, slots=True)
class Taker:
    """A worker, and where it takes tasks from."""

    queues: frozenset[str]
    #: kombu's ``priority_steps``: of each queue it takes from the lists of these.
    steps: frozenset[int]


def takers(app: Celery, timeout: float = ANSWER_TIMEOUT) -> dict[str, tuple[Taker, Mapping[str, Any]]]:
    """Ask all workers where they take tasks from, and their settings as far as they were set; by node name.

    ``timeout`` as in :func:`ask`. Of the settings there are those in :data:`CONF`, by these names.
    """
    # Not with defaults: then each worker logs two warnings about URLs that are None (celery.app.utils, maybe_censor).
    consumed, settings = answers(app, timeout, "active_queues", Question("conf", {"with_defaults": False}))
    found: dict[str, tuple[Taker, Mapping[str, Any]]] = {}
    for name, given in settings.items():
        conf = _named(given)
        queues = frozenset(str(each.get("name")) for each in consumed[name])
        found[name] = Taker(queues, frozenset(steps_in(conf))), conf
    return found


def _named(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by the names that Celery has for them, whatever namespace they were given with.

    Of transport options given twice those count that have steps: DynPrio adds its own to the ones that Celery heeds.
    """
    conf: dict[str, Any] = {}
    for name in CONF:
        values = [value for key, value in given.items() if f"_{key}".lower().endswith(f"_{name}")]
        stepped = (value for value in values if isinstance(value, dict) and "priority_steps" in value)
        if values:
            conf[name] = next(stepped, values[0])
    return conf


def ask(app: Celery, timeout: float = ANSWER_TIMEOUT) -> Workers:
    """Ask all workers; takes ``timeout`` seconds longer than the last answer, twice if one falls silent in between."""
    active = Question("active", {"safe": True})  # their arguments as short texts
    stats, queues, running = answers(app, timeout, "stats", Question("active_queues"), active)
    slots = {name: _slots(answer) for name, answer in sorted(stats.items())}
    return Workers(
        slots,
        {name: frozenset(str(each.get("name")) for each in answer) for name, answer in queues.items()},
        {name: _ahead(app, stats[name], slots[name]) for name in slots},
        {name: list(_running(answer)) for name, answer in running.items()},
    )


class Slots:
    """How many tasks of a queue can run at once; asked in the background, and only while somebody wants to know.

    The first answer is 0, as there is none yet. Later ones are up to ``max_age`` seconds old, and older where workers
    cannot be asked.
    """

    def __init__(self, app: Celery, max_age: float = MAX_AGE) -> None:
        self._app = app
        self._max_age = max_age
        self._workers = Workers()
        self._asked_at = -math.inf
        self._thread: threading.Thread | None = None

    def __call__(self, queue: str) -> int:
        """As far as is known now; never waits."""
        asking = self._thread is not None and self._thread.is_alive()
        if not asking and time.monotonic() - self._asked_at >= self._max_age:
            self._asked_at = time.monotonic()
            self._thread = threading.Thread(target=self._ask, name="dynprio slots", daemon=True)
            self._thread.start()
        return self._workers.slots_for(queue)

    def _ask(self) -> None:
        try:
            self._workers = ask(self._app)
        except Exception:  # whatever a broker's client raises: the last answer stands
            logger.debug("could not ask workers how many tasks they run at once", exc_info=True)


class Question(NamedTuple):
    """A command of Celery's that workers answer."""

    command: str
    arguments: Mapping[str, Any] | None = None


def answers(app: Celery, timeout: float, first: str, *then: Question) -> list[Mapping[str, Any]]:
    """Ask all workers one thing and those that answered others: for each question, what each node said.

    What a worker could not answer is left out. All but the first question are over as soon as all have answered.
    """
    with new_connection(app) as connection:
        # A mailbox for each: a late answer to one question must not be counted as one to the next.
        replies = _valid(_mailbox(app, connection).multi_call(first, timeout=timeout))
        _wait_no_more(connection)
        found: list[Mapping[str, Any]] = [replies]
        for command, arguments in then:
            mailbox = _mailbox(app, connection)
            found.append(_valid(mailbox.call(list(replies), command, arguments, timeout=timeout)) if replies else {})
        return found


def reserved_ahead(app: Celery) -> int:
    """How many tasks a worker with this app's settings reserves for each slot, beside the one that runs on it."""
    conf = app.conf
    if conf.get("worker_disable_prefetch"):
        return 0
    if not conf.worker_prefetch_multiplier:
        return NO_LIMIT
    return max(int(conf.worker_prefetch_multiplier) - (1 if conf.task_acks_late else 0), 0)


def tell(app: Celery, command: str, **arguments: Any) -> None:
    """Tell all workers to do something, one of Celery's control commands; nobody waits for their answers."""
    with new_connection(app) as connection:
        _mailbox(app, connection).abcast(command, arguments)


def _mailbox(app: Celery, connection: Any) -> Any:
    """A mailbox that publishes by this connection; the app's takes another one from the pool for that."""
    mailbox = app.control.mailbox(connection)
    mailbox._producer_pool = None  # noqa: SLF001 - a copy, and kombu has no other way
    mailbox.unclaimed = defaultdict(deque)  # not the app's, which keeps them
    return mailbox


def _valid(replies: Any) -> dict[str, Any]:
    """Return the answers by node name, without those which say that the command failed or is unknown there."""
    return {name: each for name, each in flatten_reply(replies or []).items() if not _failed(each)}


def _failed(answer: Any) -> bool:
    return isinstance(answer, Mapping) and answer.keys() == {"error"} and isinstance(answer["error"], str)


def _wait_no_more(connection: Any) -> None:
    """End what kombu leaves at a Redis once answers stop: a BRPOP for more of them, for a second.

    The next question over this connection would hear nobody. kombu connects again by itself.
    """
    channel = connection.default_channel
    if getattr(channel, "_in_poll", None):
        channel.client.connection.disconnect()


def _slots(stats: Any) -> int:
    pool = stats.get("pool") if isinstance(stats, Mapping) else None
    slots = pool.get("max-concurrency") if isinstance(pool, Mapping) else None
    return slots if isinstance(slots, int) and slots > 0 else 1


def _ahead(app: Celery, stats: Any, slots: int) -> int:
    """How many tasks a worker takes ahead; those that run count among them where they are acknowledged late."""
    fetched = stats.get("prefetch_count") if isinstance(stats, Mapping) else None
    if app.conf.get("worker_disable_prefetch") or not isinstance(fetched, int):
        return 0
    return max(fetched - slots if app.conf.task_acks_late else fetched, 0)


def _running(answer: Any) -> Iterator[Running]:
    for each in answer if isinstance(answer, list) else ():
        if isinstance(each, Mapping):
            name, since = text_of(each.get("name"), MAX_ID), number(each.get("time_start"))
            if name and since is not None:
                yield Running(text_of(each.get("id"), MAX_ID), name, since)
