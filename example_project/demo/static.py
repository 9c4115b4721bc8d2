"""The same shop without the add-on, with the static priorities that its kinds of tasks deserve."""

from __future__ import annotations

from typing import Final

from celery import Celery

#: Celery's own priorities; on Redis 0 is the most urgent.
PRIORITIES: Final = {"checkout": 0, "invoice": 3, "notify": 5, "report": 6, "reindex": 9}

app = Celery("shop")
app.config_from_object("example_project.celeryconfig")
app.conf.broker_transport_options = {"priority_steps": list(range(10)), "queue_order_strategy": "priority"}
app.conf.task_annotations = {
    f"example_project.tasks.{name}": {"priority": priority} for name, priority in PRIORITIES.items()
}
