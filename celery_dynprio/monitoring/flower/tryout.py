"""Plays what waits forward for the page: one outlook at a time, of few tasks, and none that nobody waits for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from celery_dynprio.assembly import production
from celery_dynprio.errors import ArgumentError, DynPrioError
from celery_dynprio.hosting.orm import close_connections
from celery_dynprio.lab.outlook import Outlook, Play, outlook
from celery_dynprio.lab.plain import outlook_object, path_objects
from celery_dynprio.monitoring.flower.terms import read_policy

if TYPE_CHECKING:
    from celery import Celery

    from celery_dynprio.engine.scene import Scene
    from celery_dynprio.policies import Policy
    from celery_dynprio.settings import Settings

#: So many tasks are played; it takes about two seconds of one core.
TASKS: Final = 200

#: So many names and keys are told of.
GROUPS: Final = 12

#: Requests that are played or wait for it.
MOST_REQUESTS: Final = 3


class Tryout:
    """Tries policies on the queues of one app. ``scenes`` reads what waits, with at most so many tasks."""

    def __init__(self, app: Celery, scenes: Callable[[], list[Scene]]) -> None:
        self._app = app
        self._scenes = scenes
        self._thread = ThreadPoolExecutor(1, "dynprio tryout")
        self._places = threading.BoundedSemaphore(MOST_REQUESTS)

    def ask(self, settings: Settings, queue: str, terms: str, gone: threading.Event) -> Future[dict[str, Any]]:
        """Play a queue under the policy in force and the one that ``terms`` say; does not block.

        It stops once ``gone`` is set. Raises :class:`~celery_dynprio.errors.ArgumentError` for terms or a queue that
        cannot be, and :class:`~celery_dynprio.errors.DynPrioError` if too many wait already.
        """
        if queue not in settings.queues:
            raise ArgumentError("queue", queue, f"not managed; dynprio_queues has {', '.join(settings.queues)}")
        tried = read_policy(terms, settings.policy)
        if not self._places.acquire(blocking=False):
            raise DynPrioError("Too many policies are being tried: try again in a few seconds.")
        try:
            future = self._thread.submit(self._play, settings, queue, tried, gone)
        except BaseException:
            self._places.release()
            raise
        future.add_done_callback(lambda _: self._places.release())
        return future

    def _play(self, settings: Settings, queue: str, tried: Policy, gone: threading.Event) -> dict[str, Any]:
        if gone.is_set():
            return {}
        scene = next(each for each in self._scenes() if each.queue == queue)
        play = Play(production(self._app, settings), settings.interval, TASKS, stopped=gone.is_set)
        try:
            return _object(outlook(scene, settings.policy, tried, play), scene.context.now)
        finally:
            close_connections()  # the user's factors may use Django's ORM


def _object(found: Outlook, at: float) -> dict[str, Any]:
    return {"queue": found.queue, "at": at, **outlook_object(found, GROUPS), "paths": path_objects(found.paths)}
