"""The shop's Celery app. Two lines keep its pending tasks in the right order."""

from __future__ import annotations

from celery import Celery

from celery_dynprio import DynPrio

app = Celery("shop")
app.config_from_object("example_project.celeryconfig")
dynprio = DynPrio(app)
