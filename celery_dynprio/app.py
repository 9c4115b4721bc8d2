"""``DynPrio``: two lines in a Celery app. The only place that touches the app, and undoes it too."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from celery import signals

from celery_dynprio import logs
from celery_dynprio.assembly import BROKER_STEPS, broker_errors, connect, operations, purging, supports
from celery_dynprio.durations import Due
from celery_dynprio.errors import DynPrioError
from celery_dynprio.hosting.amqp import ReplacedConnection, replace_route, restore_route
from celery_dynprio.hosting.default_app import give_back, make_default
from celery_dynprio.hosting.signals import Connections
from celery_dynprio.hosting.steps import ReplacedSetting, add_steps, check_steps
from celery_dynprio.levels import Scale, steps_in
from celery_dynprio.operators.selection import Filter
from celery_dynprio.ports.broker import Broker
from celery_dynprio.ports.installation import ATTRIBUTE
from celery_dynprio.producer.guide import BackgroundGuide
from celery_dynprio.producer.placement import Placement, Routing
from celery_dynprio.producer.publishing import Publishing
from celery_dynprio.producer.router import DynPrioRouter
from celery_dynprio.settings import Settings
from celery_dynprio.tracing import failure_report
from celery_dynprio.tracing.propagation import Propagation
from celery_dynprio.typed import UNSET, Unset
from celery_dynprio.worker.recorder import Recorder

if TYPE_CHECKING:
    from celery import Celery

    from celery_dynprio.operators.operations import Operations
    from celery_dynprio.operators.results import Explanation, Listing
    from celery_dynprio.operators.steering import Result

logger = logging.getLogger(__name__)

#: Steps of a worker's consumer, by name so that only workers import them.
CONSUMER_STEPS: Final = (
    "celery_dynprio.worker.candidate:Candidate",
    "celery_dynprio.doctor.startup:StartupChecks",
    "celery_dynprio.worker.received:TraceReceived",
    *BROKER_STEPS,
)

#: What ``celery events`` and others that start from the app know of its tasks; by name, as Celery wants it.
STATE: Final = "celery_dynprio.monitoring.events:FollowingState"


class DynPrio:
    """Keeps the pending tasks of an app's managed queues in order: ``DynPrio(app)``, or ``init_app`` later.

    Settings, routes and transport options may be set before or after: they are read when first needed. On a broker
    other than Redis the app works as plain Celery, and workers say so.
    """

    def __init__(self, app: Celery | None = None) -> None:
        self._app: Celery | None = None
        self._settings: Settings | None = None
        # What is worked out once, in a tuple because it may be None.
        self._routing: tuple[Routing | None] | None = None
        self._scale: tuple[Scale | None] | None = None
        self._replaced: ReplacedSetting | None = None
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
        self._guide = BackgroundGuide(self.connect)
        self._router = DynPrioRouter(app, self._get_routing)
        self._propagation = Propagation(app, lambda: self.scale)
        self._recorder = Recorder(app, lambda: self.settings, self.connect)
        self._propagation.follower = self._recorder.follow
        self._connections = self._make_connections(app)
        for each in self._connections:
            each.connect()
        replace_route(app, self._router.route)
        self._connection_class = ReplacedConnection(app, lambda base: purging(base, self._purged))
        app.steps["consumer"].update(CONSUMER_STEPS)
        if app.events.state_cls == type(app.events).state_cls:  # no other add-on has its own
            app.events.state_cls = STATE
        if app.configured:
            self._add_steps()

    def uninstall(self) -> None:
        """Make the app a plain one again; doing it twice changes nothing.

        Messages stay where they are: see ``celery -A proj dynprio drain`` for what is parked.
        """
        app = self._app
        if app is None:
            return
        for each in self._connections:
            each.disconnect()
        self._guide.stop()
        restore_route(app)
        self._connection_class.restore()
        app.steps["consumer"].difference_update(CONSUMER_STEPS)
        if app.events.state_cls == STATE:
            del app.events.state_cls
        if self._replaced is not None:
            self._replaced.restore(app)
        if self._made_default:
            give_back(app)
        delattr(app, ATTRIBUTE)
        self._app = self._settings = self._routing = self._scale = self._replaced = None

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
            self._add_steps()
            check_steps(app)
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

    @property
    def scale(self) -> Scale | None:
        """How the broker numbers the levels; None if it has none, or a setting is wrong."""
        if self._scale is None:
            self._scale = (self._read_scale(),)
        return self._scale[0]

    @property
    def recorder(self) -> Recorder:
        """What keeps the runs of this process."""
        return self._recorder

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

    def _read_scale(self) -> Scale | None:
        try:
            if not supports(self.app):
                return None
            _ = self.settings  # so that the steps are set and checked
            return Scale.of(steps_in(self.app.conf))
        except DynPrioError:  # reported where the settings are used
            return None

    def _get_routing(self) -> Routing | None:
        """What the router works by; None if the broker cannot have managed queues."""
        if self._routing is None:
            settings = self.settings
            routing = None
            if supports(self.app):
                placement = Placement(settings.policy, Scale.of(steps_in(self.app.conf)), self._guide)
                queues, default = frozenset(settings.queues), self.app.conf.task_default_queue
                routing = Routing(queues, placement, default, settings.inherit, settings.strict)
            self._routing = (routing,)
        return self._routing[0]

    def _make_connections(self, app: Celery) -> list[Connections | Recorder]:
        return [
            Connections(
                "app",
                app,
                (app.on_after_configure, self._configured, None),
                # Of all that workers, beat and shells do at their start, only here does an exception end them.
                (signals.import_modules, self._starting, app),
                (signals.celeryd_after_setup, self._worker_starting, None),
            ),
            Publishing(app, self._router, self._propagation).connections(),
            self._propagation.connections(),
            logs.connections(app, lambda: self.settings),
            failure_report.connections(app),
            self._recorder,
        ]

    def _add_steps(self) -> None:
        if supports(self.app):
            self._replaced = add_steps(self.app) or self._replaced

    def _purged(self) -> Collection[str]:
        """The queues of which a purge takes more; connections of the app's pool outlive an :meth:`uninstall`."""
        return () if self._app is None else self.settings.queues

    def _configured(self, **_: Any) -> None:
        self._add_steps()

    def _starting(self, **_: Any) -> None:
        self._get_routing()

    def _worker_starting(self, instance: Any = None, **_: Any) -> None:
        if instance.app is self._app and self._get_routing() is None:
            logger.warning(
                "broker %s is no Redis: tasks in %s are run as plain Celery runs them; managed queues need redis://, "
                "rediss:// or sentinel://",
                self.app.connection_for_write().as_uri(),
                ", ".join(self.settings.queues),
            )
