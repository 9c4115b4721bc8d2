"""Puts together a broker and what works with it: the only file that names an adapter that needs a server.

Adapters are imported when they are first needed: the command line loads this package for each of Celery's commands, and
redis is slow to import.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celery_dynprio.configuration.declarations import data_of
from celery_dynprio.hosting.orm import close_connections
from celery_dynprio.levels import Scale, steps_in
from celery_dynprio.ports.broker import Broker, BrokerErrors, WorkersOfQueues
from celery_dynprio.ports.guidance import EXPIRY
from celery_dynprio.ports.installation import installation_of
from celery_dynprio.ports.lease import Kind, Leases
from celery_dynprio.ports.stores import Usage
from celery_dynprio.settings import MAX_EVENTS, Settings
from celery_dynprio.tracing.runs import span_of_headers

if TYPE_CHECKING:
    from celery import Celery

    from celery_dynprio.engine.guard import Guard
    from celery_dynprio.engine.tick import Reprioritizer
    from celery_dynprio.lab.contenders import Production
    from celery_dynprio.lab.recorder import Recorder, Target
    from celery_dynprio.operators.operations import Operations

#: Steps of a worker's consumer that only some brokers need, by name so that only workers import them.
BROKER_STEPS = (
    "celery_dynprio.brokers.redis.restoring:RestoreToPlainLists",
    "celery_dynprio.brokers.redis.turns:TakeTurns",
)

#: Seconds for which the levels of a queue may be used after the leader last said so; more where it ticks rarely.
LEVELS_TTL = 30.0

#: Seconds for which a queue in which nothing waits goes without a tick, at least; what comes meanwhile is noticed all
#: the same.
IDLE_REST = 30.0


def connect(app: Celery, timeout: float | None = None) -> Broker:
    """Open a connection to the app's broker: see :meth:`~celery_dynprio.ports.installation.Installation.connect`."""
    from celery_dynprio.brokers.redis.broker import RedisBroker  # noqa: PLC0415 - see the module
    from celery_dynprio.brokers.redis.client import RedisClient  # noqa: PLC0415

    return RedisBroker(RedisClient.from_app(app, timeout))


def broker_errors() -> BrokerErrors:
    """Return what a broker's client raises, and what it means."""
    from celery_dynprio.brokers.redis.broker import ERRORS  # noqa: PLC0415 - see the module

    return ERRORS


def supports(app: Celery) -> bool:
    """Whether the app's broker can have managed queues."""
    from celery_dynprio.brokers.redis.client import REDIS_TRANSPORTS  # noqa: PLC0415 - see the module

    return bool(app.connection_for_write().get_transport_cls().driver_type in REDIS_TRANSPORTS)


def purging(connection_class: Any, queues: Callable[[], Collection[str]]) -> Any:
    """Return a class of connections whose purge of a managed queue takes what is parked, too."""
    from celery_dynprio.brokers.redis.purge import purging  # noqa: PLC0415 - see the module

    return purging(connection_class, queues)


def operations(
    app: Celery, broker: Broker, settings: Settings, by: str | None = None, clock: Callable[[], float] | None = None
) -> Operations:
    """Return what operators can do on this broker; the ends of cancelled tasks are told as this app's workers do."""
    from celery_dynprio.operators.operations import Operations  # noqa: PLC0415 - see the module
    from celery_dynprio.operators.revocation import WorkerHooks  # noqa: PLC0415

    def request_class(base: type, scale: Scale) -> type:
        from celery_dynprio.worker.requests import traced_request  # noqa: PLC0415 - only who cancels pays for it

        return traced_request(base, scale)

    def flush() -> None:
        installation = installation_of(app)
        if installation is not None:
            installation.recorder.stop()

    return Operations(app, broker, settings, by, clock, hooks=WorkerHooks(request_class, flush))


def production(app: Celery, settings: Settings) -> Production:
    """What a simulation carries policies out with: as the app is set."""
    from celery_dynprio.lab.contenders import Production  # noqa: PLC0415 - no worker needs it

    return Production(
        Scale.of(steps_in(app.conf)),  # the add-on has set them
        settings.window,
        settings.hysteresis,
        settings.budget,
        half_life=settings.half_life,
    )


def reprioritizers(
    broker: Broker,
    settings: Settings,
    owner: str,
    *,
    kind: Kind = "dedicated",
    queues: Sequence[str] | None = None,
    dry_run: bool = False,
    slots: Callable[[str], int] = lambda _: 0,
    workers: WorkersOfQueues | None = None,
    usage: Usage | None = None,
    leases: Leases | None = None,
) -> list[Reprioritizer]:
    """Return the reprioritizers of ``queues`` (all managed queues if None) on this broker.

    ``owner`` names this process in the lease. They report what the settings want to be monitored. ``slots`` gives how
    many tasks of a queue run at once, 0 if it cannot tell. ``workers`` knows where the workers take tasks from; without
    it only those levels are used that workers without the add-on take from too. ``usage`` replaces what the broker
    remembers of use and runtimes. ``leases`` are those that this process shares out with others.
    """
    from celery_dynprio.engine.guiding import Guiding  # noqa: PLC0415 - see the module
    from celery_dynprio.engine.keeper import Keeper  # noqa: PLC0415
    from celery_dynprio.engine.planner import Planner  # noqa: PLC0415
    from celery_dynprio.engine.tick import Reprioritizer  # noqa: PLC0415

    guard = _guards(broker, settings, slots)
    names = settings.queues if queues is None else queues
    leases = leases or broker.leases(names, owner, kind, settings.lease_ttl)
    keeper = Keeper(settings.lease_ttl, renew=leases.renew)
    usage = usage or broker.stores.usage(settings.half_life)
    paused = broker.stores.switch().paused
    running, shares = broker.stores.running(), broker.stores.shares()
    guidance = broker.stores.guidance(max(EXPIRY, 3 * settings.interval))
    return [
        Reprioritizer(
            backlog=broker.backlog(queue, settings.window, clock=broker.clock, beat=keeper.beat),
            lease=leases.of(queue),
            planner=Planner(len(broker.scale.levels), settings.window, settings.hysteresis),
            policy=settings.policy,
            usage=usage,
            paused=paused,
            budget=settings.budget,
            window=settings.window,
            dry_run=dry_run,
            watched=settings.metrics_port is not None,
            traced=MAX_EVENTS if settings.events else 0,
            trace_of=_trace_of,
            guard=guard(queue),
            running=running,
            shares=shares,
            guiding=Guiding(guidance, queue),
            levels=broker.levels(queue, workers, max(LEVELS_TTL, 3 * settings.interval)),
            owner=owner,
            keeper=keeper,
            rest=0.0 if settings.objectives else IDLE_REST,  # a breach may end
            clock=broker.clock,
        )
        for queue in names
    ]


def recorder(app: Celery, broker: Broker, settings: Settings, target: Target) -> Recorder:
    """Return what records what becomes of all tasks of this app; it can be turned with this broker only."""
    from celery_dynprio.lab.conditions import Conditions  # noqa: PLC0415 - see the module
    from celery_dynprio.lab.recorder import Recorder, Sources  # noqa: PLC0415
    from celery_dynprio.operators.workers import ask, reserved_ahead  # noqa: PLC0415

    def slots() -> Mapping[str, int]:
        workers, managed = ask(app), frozenset(settings.queues)
        return {name: count for name, count in workers.slots.items() if managed & workers.queues.get(name, frozenset())}

    conditions = Conditions(
        policy=repr(settings.policy),
        declared=data_of(settings.policy),
        queues=settings.queues,
        interval=settings.interval,
        window=settings.window,
        hysteresis=settings.hysteresis,
        budget=settings.budget,
        half_life=settings.half_life,
        levels=broker.scale.numbers,
        plain_levels=broker.scale.plain_numbers,
        prefetch=reserved_ahead(app),
    )
    sources = Sources(broker.stores.feed(), broker.stores.audit(), slots)
    return Recorder(sources, target, conditions, time.time)


def _guards(broker: Broker, settings: Settings, slots: Callable[[str], int]) -> Callable[[str], Guard | None]:
    """Return what makes the guard of a queue; all of them share the slots of the same workers."""
    if not settings.objectives:
        return lambda _: None
    from celery_dynprio.engine.admission import Admission  # noqa: PLC0415 - see the module
    from celery_dynprio.engine.guard import Guard  # noqa: PLC0415

    attainment = broker.stores.attainment(settings.objectives, broker.clock, settings.interval)
    admission = Admission(settings.interval)
    return lambda queue: Guard(queue, settings.objectives, attainment, slots, admission, clean_up=close_connections)


def _trace_of(headers: Mapping[str, Any]) -> str:
    return span_of_headers(headers).trace_id
