"""Tells the end of cancelled tasks as Celery's workers tell that of revoked ones."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from celery_dynprio.levels import Scale
from celery_dynprio.ports.broker import Broker
from celery_dynprio.protocol1 import is_protocol_1

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger("celery_dynprio.revocation")


def _plain_requests(base: type, _scale: Scale) -> type:
    return base


def _nothing_to_flush() -> None:
    """Plain Celery keeps no traces."""


@dataclass(frozen=True, slots=True)
class WorkerHooks:
    """What the add-on does in a worker that finds a revoked task, for a process that is none."""

    #: Returns the class of requests that has traces, for Celery's own and the broker's scale.
    request_class: Callable[[type, Scale], type] = _plain_requests
    #: Stores the traces that are not stored yet; called once the ends of some tasks were published.
    flush: Callable[[], None] = _nothing_to_flush


#: A worker without the add-on.
PLAIN: Final = WorkerHooks()


def revoke(app: Celery, broker: Broker, task_id: str, raw: bytes, hooks: WorkerHooks = PLAIN) -> None:
    """Give a task whose message is in nobody's reach any more the result REVOKED, and all that follows from it.

    A chord that waits for it fails, and the event ``task-revoked`` is sent: by the very code of a worker that finds a
    revoked task. Raises what the result backend raises.
    """
    with app.events.Dispatcher(broker.connection, hostname=_host()) as events:
        request = _request(app, broker, raw, events, hooks)
        if request is not None:
            _discard(request)
            return
        # The body is in a format that this process does not accept, or is none: what waits in it nobody can tell.
        events.send("task-revoked", uuid=task_id, terminated=False, signum=None, expired=False)
        app.backend.mark_as_revoked(task_id, "revoked")


def _request(app: Celery, broker: Broker, raw: bytes, events: Any, hooks: WorkerHooks) -> Any:
    """What a worker would make of the message; None if it could make nothing."""
    from celery.worker.request import Request  # noqa: PLC0415 - only who cancels pays for the worker's modules
    from celery.worker.strategy import hybrid_to_proto2  # noqa: PLC0415
    from kombu.serialization import prepare_accept_content  # noqa: PLC0415

    try:
        message = broker.delivery(raw)
        message.accept = prepare_accept_content(app.conf.accept_content)
        about: Any = message.headers
        options: dict[str, Any] = {}
        if is_protocol_1(message.headers):
            # As the worker's strategy does.
            body, about, decoded, utc = hybrid_to_proto2(message, message.decode())
            options = {"body": body, "headers": about, "decoded": decoded, "utc": utc}
        task = app.tasks.get(about["task"]) or _unknown(app, about["task"])
        request = hooks.request_class(Request, broker.scale)
        return request(message, app=app, task=task, hostname=_host(), eventer=events, **options)
    except Exception as exc:  # noqa: BLE001 - whatever a message makes of decoders and of Celery
        logger.warning("only the result of the cancelled task is told, its message cannot be read: %r", exc)
        return None


def _discard(request: Any) -> None:
    from celery.worker.state import revoked  # noqa: PLC0415 - see _request

    revoked.add(request.id)
    try:
        request.revoked()
    finally:
        revoked.discard(request.id)


def _unknown(app: Celery, name: str) -> Any:
    """A task that this app does not have, as send_task publishes them."""
    task = type("Unknown", (app.Task,), {"name": name, "run": None})()
    task.bind(app)
    return task


def _host() -> str:
    return f"dynprio@{socket.gethostname()}"
