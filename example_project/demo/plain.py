"""The same shop without the add-on."""

from __future__ import annotations

from celery import Celery

app = Celery("shop")
app.config_from_object("example_project.celeryconfig")
