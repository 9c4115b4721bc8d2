"""Tells whoever follows an app's tasks in this process when a run of one begins and when it ends, in any pool.

Of Celery's signals there is one receiver for all followers: each takes a microsecond, and another two to ask the task
for its app and its request.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, Protocol

from celery import signals

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger(__name__)

#: The attribute of a Celery app that holds who follows its runs.
_RUNS: Final = "_dynprio_runs"


class Follower(Protocol):
    """Is told of each run of the app's tasks, by the thread that runs it; eager ones are not left out."""

    def started(self, task: Any, request: Any) -> None:
        """Take in that a run begins."""

    def ended(self, task: Any, request: Any, state: object, retval: object) -> None:
        """Take in that it has ended in this Celery state, with its result or what it raised."""


class _Runs:
    """The runs of one app's tasks."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._uid = f"dynprio-runs-{id(app)}"
        self._followers: tuple[tuple[str, Follower], ...] = ()

    def started(self, task: Any, **_: Any) -> None:
        """Receive ``task_prerun``."""
        if task.app is self._app:
            request = task.request
            for _name, follower in self._followers:
                try:
                    follower.started(task, request)
                except Exception:  # as Celery's signals do: neither the task nor the next one must notice
                    logger.exception("%r failed at the start of %s", follower, task.name)

    def ended(self, task: Any, state: object = None, retval: object = None, **_: Any) -> None:
        """Receive ``task_postrun``; a process that was ended from outside sends none."""
        if task.app is self._app:
            request = task.request
            for _name, follower in self._followers:
                try:
                    follower.ended(task, request, state, retval)
                except Exception:  # as above
                    logger.exception("%r failed at the end of %s", follower, task.name)

    def follow(self, name: str, follower: Follower) -> None:
        if name not in dict(self._followers):
            self._followers = (*self._followers, (name, follower))
        for signal, receiver in ((signals.task_prerun, self.started), (signals.task_postrun, self.ended)):
            signal.connect(receiver, weak=False, dispatch_uid=self._uid)

    def unfollow(self, name: str) -> bool:
        """Return whether anybody still follows."""
        self._followers = tuple(each for each in self._followers if each[0] != name)
        for signal in () if self._followers else (signals.task_prerun, signals.task_postrun):
            signal.disconnect(dispatch_uid=self._uid)
        return bool(self._followers)


def follow(app: Celery, name: str, follower: Follower) -> None:
    """Tell this follower of each run from now on, after those that follow already; the first of a name stays."""
    runs = vars(app).get(_RUNS) or _Runs(app)
    setattr(app, _RUNS, runs)
    runs.follow(name, follower)


def unfollow(app: Celery, name: str) -> None:
    """Tell the follower of this name no more; doing it twice changes nothing."""
    runs = vars(app).get(_RUNS)
    if runs is not None and not runs.unfollow(name):
        delattr(app, _RUNS)
