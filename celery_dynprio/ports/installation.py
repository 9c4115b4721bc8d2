"""What the parts of the add-on that live in a worker or a monitor need of the app that it is installed in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from celery_dynprio.levels import Scale
from celery_dynprio.settings import Settings
from celery_dynprio.tracing.span import Span

if TYPE_CHECKING:
    from celery import Celery

    from celery_dynprio.ports.broker import Broker

#: The attribute of a Celery app that holds its installation.
ATTRIBUTE: Final = "_dynprio"


class RunRecorder(Protocol):
    """Keeps what becomes of the tasks of one process, in the background."""

    def record(self, state: str, span: Span, headers: Mapping[str, Any], exc: BaseException) -> None:
        """Keep how a run ended that could not say so itself, or a message that is not run at all.

        ``state`` is Celery's, ``headers`` are those of the message.
        """

    def stop(self) -> None:
        """Send what waits, for a few seconds at most, before this process ends."""


class Installation(Protocol):
    """The add-on in one app: :class:`~celery_dynprio.app.DynPrio`."""

    @property
    def app(self) -> Celery:
        """The app."""

    @property
    def settings(self) -> Settings:
        """The app's settings, read once; :class:`~celery_dynprio.errors.SettingError` if one is wrong."""

    @property
    def supported(self) -> bool:
        """Whether the app's broker can have managed queues."""

    @property
    def scale(self) -> Scale | None:
        """How the broker numbers the levels; None if it has none, or a setting is wrong."""

    @property
    def recorder(self) -> RunRecorder:
        """What keeps the runs of this process."""

    def connect(self, timeout: float | None = None) -> Broker:
        """Open a connection of its own to the app's broker, which gives up after ``timeout`` seconds without an answer.

        None leaves what the app's transport options say, or else a few seconds. Raises
        :class:`~celery_dynprio.errors.BrokerUnavailableError`, :class:`~celery_dynprio.errors.BrokerRefusedError` or
        :class:`~celery_dynprio.errors.UnsupportedBrokerError`.
        """


def installation_of(app: Any) -> Installation | None:
    """Return the installation in this app; None if it is a plain one."""
    found: Installation | None = getattr(app, ATTRIBUTE, None)
    return found
