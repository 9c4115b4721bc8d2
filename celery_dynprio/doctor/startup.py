"""The checks of a worker: those that cost next to nothing, logged once at its start."""

from __future__ import annotations

import logging
from typing import Any

from celery import bootsteps

from celery_dynprio.doctor.checks import check_conf
from celery_dynprio.doctor.gather import understood
from celery_dynprio.doctor.queue_checks import check_routes
from celery_dynprio.doctor.survey import known_queues
from celery_dynprio.errors import BrokerRefusedError, BrokerUnavailableError
from celery_dynprio.ports.health import Finding
from celery_dynprio.ports.installation import installation_of

logger = logging.getLogger("celery_dynprio.doctor")


class StartupChecks(bootsteps.StartStopStep):
    """A step of a worker's consumer that logs the cheap findings once, when the broker is first reached."""

    requires = ("celery.worker.consumer.connection:Connection",)
    _done = False

    def include_if(self, parent: Any) -> bool:
        """Whether the broker can have managed queues at all; the app itself says so if not."""
        installation = installation_of(parent.app)
        return installation is not None and installation.supported

    def start(self, c: Any) -> None:
        """Check, unless this is a reconnection."""
        if self._done:
            return
        self._done = True
        for finding in _findings(c):
            if finding.severity != "ok":
                logger.warning("%s: %s", finding.check, finding.text)


def _findings(consumer: Any) -> list[Finding]:
    app = consumer.app
    installation = installation_of(app)
    if installation is None:  # uninstalled since this worker was set up
        return []
    try:
        broker = installation.connect()
    except (BrokerRefusedError, BrokerUnavailableError) as exc:
        logger.warning("start-up checks skipped: %s", exc)
        return []
    try:
        return [
            *check_conf(understood(_effective(consumer))),
            *broker.health.check_server(),
            *check_routes(installation.settings.queues, known_queues(app)),
        ]
    except broker.errors.any as exc:
        logger.warning("start-up checks skipped: %s", exc)
        return []
    finally:
        broker.close()


def _effective(consumer: Any) -> dict[str, Any]:
    """The settings that this worker runs with: the command line may have changed the prefetch multiplier."""
    names = ("worker_disable_prefetch", "broker_transport_options", "task_acks_late")
    conf = {name: consumer.app.conf.get(name) for name in names}
    return {**conf, "worker_prefetch_multiplier": consumer.prefetch_multiplier}
