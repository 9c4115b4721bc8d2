"""``dynprio run``: the reprioritizer as a process."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from uuid import uuid4

import click
from celery.bin.base import COMMA_SEPARATED_LIST, LOG_LEVEL, CeleryCommand, CeleryOption

from celery_dynprio.cli.session import duration, installed_in, one_line_errors, settings_of, stop_on_signals

if TYPE_CHECKING:
    from celery_dynprio.engine.sharing import Sharing
    from celery_dynprio.engine.tick import Reprioritizer
    from celery_dynprio.models import Report
    from celery_dynprio.monitoring.observers import Observers
    from celery_dynprio.operators.operations import Operations
    from celery_dynprio.ports.broker import Broker, BrokerErrors
    from celery_dynprio.ports.installation import Installation
    from celery_dynprio.ports.lease import Kind
    from celery_dynprio.settings import Settings

logger = logging.getLogger(__name__)

#: Seconds between two looks at whether the worker that started an embedded reprioritizer still lives.
PARENT_INTERVAL: Final = 0.5

#: Seconds before the first and at most before a later attempt to reach a broker that was away at the start.
FIRST_BACKOFF: Final = 0.5
LONGEST_BACKOFF: Final = 10.0


#: What is called with each report, and with each failed tick and its queue.
Listeners: TypeAlias = "tuple[Callable[[Report], None], Callable[[str, Exception], None]]"


@click.command(cls=CeleryCommand, short_help="Rescore pending tasks every second, and move them.")
@click.option(
    "--interval",
    type=duration(0.05),
    metavar="SECONDS",
    cls=CeleryOption,
    help_group="Reprioritizer Options",
    help="Seconds between two ticks.  [default: the setting dynprio_interval]",
)
@click.option(
    "-Q",
    "--queues",
    type=COMMA_SEPARATED_LIST,
    cls=CeleryOption,
    help_group="Reprioritizer Options",
    help="Only these of the managed queues, comma separated.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    cls=CeleryOption,
    help_group="Reprioritizer Options",
    help="Report what would be moved, and move nothing.",
)
@click.option(
    "--once",
    is_flag=True,
    cls=CeleryOption,
    help_group="Reprioritizer Options",
    help="Stop after one tick; exit with 1 if it failed.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65_535),
    cls=CeleryOption,
    help_group="Monitoring Options",
    help="Serve metrics for Prometheus on this port.  [default: the setting dynprio_metrics_port]",
)
@click.option(
    "--metrics-host",
    cls=CeleryOption,
    help_group="Monitoring Options",
    help="The address to listen on.  [default: the setting dynprio_metrics_host]",
)
@click.option(
    "-l",
    "--loglevel",
    type=LOG_LEVEL,
    default="INFO",
    show_default=True,
    cls=CeleryOption,
    help_group="Logging Options",
    help="Logging level.",
)
@click.option(
    "-f",
    "--logfile",
    cls=CeleryOption,
    help_group="Logging Options",
    help="Log destination.  [default: stderr]",
)
@click.option("--embedded", metavar="OWNER", hidden=True, help="Started by the worker that is OWNER.")
@click.pass_context
def run(
    ctx: click.Context,
    *,
    interval: float | None,
    queues: list[str] | None,
    dry_run: bool,
    once: bool,
    metrics_port: int | None,
    metrics_host: str | None,
    loglevel: int,
    logfile: str | None,
    embedded: str | None,
) -> None:
    """Rescore pending tasks every second and move them.

    Any number may run: they share the queues out, and one moves the tasks of each. SIGTERM and SIGINT finish the
    current batch and release the leases.

    For example:

    \b
    $ celery -A proj dynprio run
    $ celery -A proj dynprio run --queues orders,mails --interval 0.5
    $ celery -A proj dynprio run --dry-run --once
    $ celery -A proj dynprio run --metrics-port 9808
    """  # noqa: D301 - Click looks for the character, not for what a raw string has
    app = ctx.obj.app
    configured = _with_options(settings_of(app), interval, queues)
    settings = replace(
        configured,
        metrics_port=None if once else metrics_port or configured.metrics_port,
        metrics_host=metrics_host or configured.metrics_host,
        record=None if once or dry_run else configured.record,
    )
    owner = embedded or f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
    stop = threading.Event()
    stop_on_signals(stop)
    if embedded:
        _stop_without_parent(stop, _parent(embedded))
    app.log.setup(loglevel, logfile, redirect_stdouts=False, colorize=False if ctx.obj.no_color else None)
    if settings.metrics_port and not configured.metrics_port:
        logger.warning("no metrics of tasks: workers count waits and runs only if dynprio_metrics_port is set")
    with one_line_errors():
        done = _reprioritize(app, settings, owner, stop, dry_run=dry_run, once=once, embedded=embedded is not None)
    if not done:
        ctx.exit(1)


def _reprioritize(
    app: Any, settings: Settings, owner: str, stop: threading.Event, *, dry_run: bool, once: bool, embedded: bool
) -> bool:
    from celery_dynprio.assembly import operations, reprioritizers  # noqa: PLC0415 - see the package
    from celery_dynprio.engine.sharing import Needed, Sharing  # noqa: PLC0415
    from celery_dynprio.operators.fleet import Fleet  # noqa: PLC0415
    from celery_dynprio.operators.workers import Slots  # noqa: PLC0415

    needed = Needed(settings.lease_ttl)

    def is_over(reports: Sequence[Report]) -> bool:
        # An embedded one that leads nowhere leaves the waiting to its worker's timer.
        return once or (embedded and not needed.by(reports))

    with closing(_observers(installed_in(app), settings, lenient=embedded)) as observers:
        broker = _connect_or_wait(app, settings, stop, observers, patient=not once)
        if broker is None:
            return True
        fleet = Fleet.of(app)
        try:
            if len(broker.scale.plain) < len(broker.scale.levels):
                fleet.start()
            kind: Kind = "embedded" if embedded else "dedicated"
            leases = broker.leases(settings.queues, owner, kind, settings.lease_ttl)
            chosen = reprioritizers(
                broker, settings, owner, kind=kind, dry_run=dry_run, slots=Slots(app), workers=fleet, leases=leases
            )
            sharing = None if once or dry_run else Sharing(leases, owner, kind, settings.interval, settings.lease_ttl)
            _log_start(app, settings, owner, dry_run=dry_run)
            listeners = _listeners(observers, operations(app, broker, settings), broker.errors)
            reported = _serve(chosen, settings.interval, stop, is_over, listeners, broker, sharing)
        finally:
            fleet.stop()
            broker.close()
    logger.info("dynprio stopped")
    return not once or reported == len(chosen)


def _log_start(app: Any, settings: Settings, owner: str, *, dry_run: bool) -> None:
    logger.info(
        "dynprio ready: %s on %s, every %g s or sooner, as %s%s",
        ", ".join(settings.queues),
        app.connection_for_write().as_uri(),
        settings.interval,
        owner,
        ", dry run" if dry_run else "",
    )


def _serve(  # noqa: PLR0917 - as the loop's
    chosen: Sequence[Reprioritizer],
    interval: float,
    stop: threading.Event,
    is_over: Callable[[Sequence[Report]], bool],
    listeners: Listeners,
    broker: Broker,
    sharing: Sharing | None,
) -> int:
    """Tick until it is over or stopped; return how many reprioritizers reported in the last tick."""
    from celery_dynprio.engine.loop import serve  # noqa: PLC0415 - see the package
    from celery_dynprio.hosting.orm import close_connections  # noqa: PLC0415

    reported = 0

    def finished(reports: Sequence[Report]) -> bool:
        nonlocal reported
        reported = len(reports)
        return is_over(reports)

    observe, failed = listeners
    serve(
        chosen,
        interval,
        stop,
        observe,
        finished,
        errors=broker.errors,
        failed=failed,
        clean_up=close_connections,
        occupied=broker.occupied,
        sharing=sharing,
    )
    return reported


def _observers(installation: Installation, settings: Settings, *, lenient: bool) -> Observers:
    from celery_dynprio.errors import SettingError  # noqa: PLC0415 - see the package
    from celery_dynprio.monitoring.observers import start  # noqa: PLC0415

    try:
        return start(installation, settings)
    except SettingError as exc:
        if not lenient:
            raise
        # Its worker would start it again and again, and nothing would be moved.
        logger.error("%s; going on without metrics", exc)  # noqa: TRY400 - one line
        return start(installation, replace(settings, metrics_port=None))


def _listeners(observers: Observers, operations: Operations, errors: BrokerErrors) -> Listeners:
    """Who is told of each report and of each failed tick.

    The log, the observers, and what tells the end of tasks if the operator who cancelled them died.
    """
    from celery_dynprio.engine.ticklog import TickLog  # noqa: PLC0415
    from celery_dynprio.models import Role  # noqa: PLC0415 - see the package

    log = TickLog(errors)

    def observe(report: Report) -> None:
        log.observe(report)
        observers.observe(report)
        if report.cancelled and report.role is Role.LEADER and (finished := operations.finish()):
            logger.info("finished %d cancellations that an operator left unfinished", finished)

    def failed(queue: str, problem: Exception) -> None:
        log.failed(queue, problem)
        observers.failed(queue, problem)

    return observe, failed


def _connect_or_wait(
    app: Any, settings: Settings, stop: threading.Event, observers: Observers, *, patient: bool
) -> Broker | None:
    """Connect to the broker; the patient wait for one that is away, as workers do, until they are stopped."""
    from celery_dynprio.assembly import connect  # noqa: PLC0415 - see the package
    from celery_dynprio.errors import BrokerUnavailableError  # noqa: PLC0415

    backoff = FIRST_BACKOFF
    while not stop.is_set():
        try:
            return connect(app)
        except BrokerUnavailableError as exc:
            if not patient:
                raise
            logger.warning("%s; trying again in %g s", exc, backoff)
            for queue in settings.queues:
                observers.failed(queue, exc)
        stop.wait(backoff)
        backoff = min(2 * backoff, LONGEST_BACKOFF)
    return None


def _with_options(settings: Settings, interval: float | None, queues: list[str] | None) -> Settings:
    unknown = sorted(set(queues or ()) - set(settings.queues))
    if unknown:
        managed = ", ".join(settings.queues)
        raise click.BadParameter(
            f"{', '.join(unknown)}: not managed; dynprio_queues has {managed}", param_hint="--queues"
        )
    if interval is not None:
        settings = replace(settings, interval=interval)
    return replace(settings, queues=tuple(queues)) if queues else settings


def _parent(owner: str) -> int:
    """The process id in the owner's name, "<node name>:<process id>:<random>"."""
    try:
        return int(owner.rsplit(":", 2)[1])
    except (IndexError, ValueError):
        raise click.BadParameter(f"{owner!r} is not <node name>:<pid>:<random>", param_hint="--embedded") from None


def _stop_without_parent(stop: threading.Event, parent: int) -> None:
    """Stop soon after the worker is gone, even by SIGKILL: the kernel then gives this process another parent."""

    def watch() -> None:
        while os.getppid() == parent:
            if stop.wait(PARENT_INTERVAL):
                return
        stop.set()

    threading.Thread(target=watch, name="dynprio-parent", daemon=True).start()
