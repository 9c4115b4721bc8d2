"""``DynPrio``: two lines in a Celery app. The only place that touches the app, and undoes it too."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from celery import signals

from celery_dynprio.assembly import broker_errors, connect, operations, supports
from celery_dynprio.durations import Due
from celery_dynprio.errors import DynPrioError, SettingError
from celery_dynprio.hosting.default_app import give_back, make_default
from celery_dynprio.levels import AddedSteps, Scale, steps_in
from celery_dynprio.operators.selection import Filter
from celery_dynprio.ports.broker import Broker
from celery_dynprio.ports.installation import ATTRIBUTE
from celery_dynprio.producer.router import DynPrioRouter, Placement, Plan
from celery_dynprio.settings import Settings
from celery_dynprio.typed import UNSET, Unset

if TYPE_CHECKING:
    from celery import Celery

    from celery_dynprio.operators.operations import Operations
    from celery_dynprio.operators.results import Explanation, Listing
    from celery_dynprio.operators.steering import Result

logger = logging.getLogger(__name__)

#: Levels, and kombu's ``priority_steps`` for them, unless the user set their own.
DEFAULT_STEPS: Final = tuple(range(10))

#: Steps of a worker's consumer, by name so that only workers import them.
CONSUMER_STEPS: Final = (
    "celery_dynprio.worker.candidate:Candidate",
    "celery_dynprio.doctor.startup:StartupChecks",
    "celery_dynprio.worker.received:TraceReceived",
    "celery_dynprio.worker.restoring:RestoreToPlainLists",
    "celery_dynprio.worker.turns:TakeTurns",
)

#: What ``celery events`` and others that start from the app know of its tasks; by name, as Celery wants it.
STATE: Final = "celery_dynprio.monitoring.events:FollowingState"

_STEPS: Final = "priority_steps"
_OPTIONS: Final = "broker_transport_options"


class DynPrio:
    """Keeps the pending tasks of an app's managed queues in order: ``DynPrio(app)``, or ``init_app`` later.

    Settings, routes and transport options may be set before or after: they are read when first needed. On a broker
    other than Redis the app works as plain Celery, and workers say so.
    """

    def __init__(self, app: Celery | None = None) -> None:
        self._app: Celery | None = None
        self._settings: Settings | None = None
        self._planned: tuple[Plan | None] | None = None
        self._replaced: _Replaced | None = None
        self._made_default = False
        if app is not None:
            self.init_app(app)

    @staticmethod
    def of(app: Celery) -> DynPrio | None:
        """The DynPrio that is installed in this app, None if there is none."""
        found: DynPrio | None = getattr(app, ATTRIBUTE, None)
        return found

    def init_app(self, app: Celery) -> None:
        """Install this in the app, in place of any other; doing it twice changes nothing.

        The app becomes Celery's default app if nobody has set one (``app.set_default()``), so that tasks declared
        without ``app`` are its own in every thread. Of several apps the first stays the default; one that was made with
        ``set_as_current=False`` gives way to the first that was not.
        """
        if self._app is app:
            return
        self.uninstall()
        other = self.of(app)
        if other is not None:
            other.uninstall()
        self._app = app
        setattr(app, ATTRIBUTE, self)
        self._made_default = make_default(app)
        self._router = DynPrioRouter(app, self._plan)
        self._connect(app)
        self._take_over_routes(app)
        self._take_over_connections(app)
        app.steps["consumer"].update(CONSUMER_STEPS)
        if app.events.state_cls == type(app.events).state_cls:  # no other add-on has its own
            app.events.state_cls = STATE
        if app.configured:
            self._set_steps(app)

    def uninstall(self) -> None:
        """Make the app a plain one again; doing it twice changes nothing.

        Messages stay where they are: see ``celery -A proj dynprio drain`` for what is parked.
        """
        app = self._app
        if app is None:
            return
        self._disconnect(app)
        self._give_back_routes(app)
        self._give_back_connections(app)
        app.steps["consumer"].difference_update(CONSUMER_STEPS)
        if app.events.state_cls == STATE:
            del app.events.state_cls
        self._restore_steps(app)
        if self._made_default:
            give_back(app)
        delattr(app, ATTRIBUTE)
        self._app = self._settings = self._planned = self._replaced = None

    @property
    def app(self) -> Celery:
        """The app that this is installed in; :class:`~celery_dynprio.errors.DynPrioError` if there is none."""
        if self._app is None:
            raise DynPrioError("this DynPrio has no app: call init_app(app) first")
        return self._app

    @property
    def settings(self) -> Settings:
        """The app's settings, read once; :class:`~celery_dynprio.errors.SettingError` if one is wrong."""
        if self._settings is None:
            app = self.app
            settings = Settings.from_app(app)
            self._set_steps(app)
            _check_steps(app)
            self._settings = settings
        return self._settings

    @property
    def plain_steps(self) -> tuple[int, ...]:
        """The ``priority_steps`` that workers of this app would have without the add-on: the user's own, or kombu's.

        Raises :class:`~celery_dynprio.errors.SettingError` if a setting is wrong.
        """
        _ = self.settings  # so that the steps are set and checked
        return Scale.of(steps_in(self.app.conf)).plain_numbers

    # What waits: see celery_dynprio.operators.operations, whose methods these are, for an app

    def pending(self, wanted: Filter | None = None, limit: int | None = None) -> Listing:
        """List pending tasks in the order in which they are expected to run; see :meth:`~.views.Views.pending`.

        This and all that follows raises :class:`~celery_dynprio.errors.BrokerUnavailableError` if the broker does not
        answer, :class:`~celery_dynprio.errors.BrokerRefusedError` if it refuses a command, and
        :class:`~celery_dynprio.errors.UnsupportedBrokerError` if it is no Redis.
        """
        with self.operations() as operations:
            return operations.pending(wanted or Filter(), limit)

    def explain(self, task_id: str) -> Explanation:
        """Tell why a task is where it is; :class:`~celery_dynprio.errors.NotPendingError` if it is not pending."""
        with self.operations() as operations:
            return operations.explain(task_id)

    def reprioritize(
        self,
        task_id: str,
        *,
        weight: float | Unset = UNSET,
        deadline: Due | Unset | None = UNSET,
        key: str | Unset | None = UNSET,
        level: int | Unset | None = UNSET,
        why: str = "",
    ) -> Result:
        """Change what is given of these; see :meth:`~.operations.Operations.reprioritize`."""
        given = {"weight": weight, "deadline": deadline, "key": key, "level": level}
        changes = {name: value for name, value in given.items() if value is not UNSET}
        with self.operations() as operations:
            return operations.reprioritize([task_id], changes, why)[0]

    def bump(self, task_id: str, why: str = "") -> Result:
        """Make a task the next to run."""
        with self.operations() as operations:
            return operations.bump([task_id], why)[0]

    def hold(self, task_id: str, why: str = "") -> Result:
        """Take a task out of the workers' reach until it is released."""
        with self.operations() as operations:
            return operations.hold([task_id], why)[0]

    def release(self, task_id: str, why: str = "") -> Result:
        """Bring a held task back."""
        with self.operations() as operations:
            return operations.release([task_id], why)[0]

    def cancel(self, task_id: str, why: str = "") -> Result:
        """Remove a task from the broker for good; its result becomes REVOKED."""
        with self.operations() as operations:
            return operations.cancel([task_id], why)[0]

    def pause(self, why: str = "") -> None:
        """Stop all moves, of all reprioritizers on this broker, from their next tick on; workers go on."""
        with self.operations() as operations:
            operations.pause(why)

    def resume(self, why: str = "") -> None:
        """Let the reprioritizers move again."""
        with self.operations() as operations:
            operations.resume(why)

    @property
    def supported(self) -> bool:
        """Whether the app's broker can have managed queues."""
        return supports(self.app)

    def connect(self, timeout: float | None = None) -> Broker:
        """Open a connection: see :meth:`~celery_dynprio.ports.installation.Installation.connect`."""
        return connect(self.app, timeout)

    @contextmanager
    def operations(self, by: str | None = None) -> Iterator[Operations]:
        """All operations, over one connection; ``by`` is who does it, for the audit: this process's user if None."""
        settings = self.settings
        errors = broker_errors()
        broker = connect(self.app)
        try:
            yield operations(self.app, broker, settings, by)
        except errors.any as exc:
            raise errors.explain(exc) from exc
        finally:
            broker.close()

    def _plan(self) -> Plan | None:
        """What the router works by; None if the broker is no Redis."""
        if self._planned is None:
            settings = self.settings
            plan = None
            if supports(self.app):
                placement = Placement(settings.policy, Scale.of(steps_in(self.app.conf)))
                queues, default = frozenset(settings.queues), self.app.conf.task_default_queue
                plan = Plan(queues, placement, default, settings.inherit, settings.strict)
            self._planned = (plan,)
        return self._planned[0]

    # What is connected

    def _connect(self, app: Celery) -> None:
        # Imported here: the command line loads this module for each of Celery's commands, and redis is slow to import.
        from celery_dynprio import logs  # noqa: PLC0415 - see _connect
        from celery_dynprio.producer import propagation  # noqa: PLC0415 - see _connect
        from celery_dynprio.tracing import failure_report as failures  # noqa: PLC0415 - see _connect
        from celery_dynprio.worker import recorder  # noqa: PLC0415 - see _connect

        for signal, receiver, sender in self._receivers(app):
            signal.connect(receiver, sender=sender, weak=False, dispatch_uid=_uid(app))
        propagation.connect(app, lambda: self.settings, self._router.complete)
        logs.connect(app, lambda: self.settings)
        failures.connect(app)
        recorder.connect(app, lambda: self.settings)  # after the propagation, which follows the runs

    def _disconnect(self, app: Celery) -> None:
        from celery_dynprio import logs  # noqa: PLC0415 - see _connect
        from celery_dynprio.producer import propagation  # noqa: PLC0415 - see _connect
        from celery_dynprio.tracing import failure_report as failures  # noqa: PLC0415 - see _connect
        from celery_dynprio.worker import recorder  # noqa: PLC0415 - see _connect

        for signal, _, sender in self._receivers(app):
            signal.disconnect(sender=sender, dispatch_uid=_uid(app))
        for each in (propagation, logs, failures, recorder):
            each.disconnect(app)

    def _receivers(self, app: Celery) -> list[tuple[Any, Callable[..., None], Any]]:
        return [
            (app.on_after_configure, self._configured, None),
            # Of all that workers, beat and shells do at their start, only here does an exception end them.
            (signals.import_modules, self._starting, app),
            (signals.celeryd_after_setup, self._worker_starting, None),
        ]

    def _configured(self, **_: Any) -> None:
        self._set_steps(self.app)

    def _starting(self, **_: Any) -> None:
        self._plan()

    def _worker_starting(self, instance: Any = None, **_: Any) -> None:
        if instance.app is self._app and self._plan() is None:
            logger.warning(
                "broker %s is no Redis: tasks in %s are run as plain Celery runs them; managed queues need redis://, "
                "rediss:// or sentinel://",
                self.app.connection_for_write().as_uri(),
                ", ".join(self.settings.queues),
            )

    # Routes: Celery makes a router when it first needs one and when the routes are updated, by AMQP.Router

    def _take_over_routes(self, app: Celery) -> None:
        def make_router(queues: Any = None, create_missing: Any = None) -> Any:
            router = type(app.amqp).Router(app.amqp, queues, create_missing)
            router.route = partial(self._router.route, router)
            return router

        app.amqp.Router = make_router
        _reread_routes(app)

    def _take_over_connections(self, app: Celery) -> None:
        from celery_dynprio.brokers.redis.purge import purging  # noqa: PLC0415 - see _connect

        self._connection_before = vars(app.amqp).get("Connection")
        app.amqp.Connection = self._connection = purging(app.amqp.Connection, lambda: self.settings.queues)

    def _give_back_connections(self, app: Celery) -> None:
        if app.amqp.Connection is not self._connection:
            return  # somebody has put another in its place since
        del app.amqp.Connection
        if self._connection_before is not None:
            app.amqp.Connection = self._connection_before

    def _give_back_routes(self, app: Celery) -> None:
        vars(app.amqp).pop("Router", None)
        _reread_routes(app)

    # Transport options: the same steps in every process that has this app

    def _set_steps(self, app: Celery) -> None:
        conf = app.conf
        given = conf[_OPTIONS] or {}
        if _STEPS in given or not supports(app):
            return
        ours = {**given, _STEPS: AddedSteps(DEFAULT_STEPS)}
        # In Celery 5.5 a key with the namespace wins over one without, even over one that was set later.
        for key in (_OPTIONS, *conf._to_keys(_OPTIONS)):  # noqa: SLF001 - nothing public tells the key with namespace
            replaced = _Replaced(conf.changes, key, ours, conf.changes.get(key))
            conf.changes[key] = ours
            if conf[_OPTIONS] is ours:
                self._replaced = replaced
                return
            replaced.restore()

    def _restore_steps(self, app: Celery) -> None:
        if self._replaced is not None and self._replaced.settings is app.conf.changes:
            self._replaced.restore()


@dataclass(frozen=True, slots=True)
class _Replaced:
    """A setting that was replaced, and by what."""

    settings: dict[str, Any]
    key: str
    ours: dict[str, Any]
    before: dict[str, Any] | None

    def restore(self) -> None:
        """Put back what was there, unless the user has set it since."""
        if self.settings.get(self.key) is not self.ours:
            return
        if self.before is None:
            del self.settings[self.key]
        else:
            self.settings[self.key] = self.before


def _uid(app: Celery) -> str:
    return f"dynprio-{id(app)}"


def _check_steps(app: Celery) -> None:
    steps = (app.conf[_OPTIONS] or {}).get(_STEPS)
    if steps is None:
        return
    numbers = list(steps) if isinstance(steps, (list, tuple, range)) else []
    known = [step for step in DEFAULT_STEPS if step in numbers]
    if numbers != known or numbers[:1] != [0] or bool in map(type, numbers):
        allowed = "use ascending whole numbers from 0 to 9, the first of them 0, or leave it out"
        raise SettingError(f"{_OPTIONS}[{_STEPS!r}]", steps, allowed)


def _reread_routes(app: Celery) -> None:
    vars(app.amqp).pop("router", None)
