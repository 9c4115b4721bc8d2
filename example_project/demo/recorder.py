"""Notes in a file when tasks are published and when they start.

Workers load it by ``celery worker --include``. It only appends a short line to a file, so it does not disturb what it
measures.
"""

from __future__ import annotations

import os
import time
from functools import cache
from typing import Any

from celery import signals

from example_project.demo.load import FLOODER


def on_publish(sender: str = "", headers: Any = None, body: Any = None, **_: Any) -> None:
    """Note a published task, and its class."""
    label = sender.rpartition(".")[2]
    if label == "report":
        label = "report (flood)" if body[0][0] == FLOODER else "report (others)"
    _note("sent", headers["id"], label)


def on_start(task_id: str = "", **_: Any) -> None:
    """Note a task that starts."""
    _note("ran", task_id, "")


def _note(what: str, task_id: str, label: str) -> None:
    # One write to a file opened for appending, so that lines of several processes do not mix.
    os.write(_file(), f"{what}\t{task_id}\t{time.time():.6f}\t{label}\n".encode())


@cache
def _file() -> int:
    return os.open(os.environ["SHOP_RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


signals.before_task_publish.connect(on_publish)
signals.task_prerun.connect(on_start)
