"""The file proj/celery.py of a Django project."""

import os

from celery import Celery

from celery_dynprio import Age, Deadline, DynPrio, Gauge, Weight

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proj.settings")


def open_orders():
    from shop.models import Order  # only once Django is set up

    return Order.objects.filter(paid=True, shipped=None).count()


app = Celery("proj")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.conf.dynprio_policy = (
    4 * Deadline(horizon=60)
    + 2 * Weight()
    + 2 * Gauge(open_orders, high=500, every=10, match="shop.tasks.pack_*")
    + 1 * Age(saturation=300)
)
app.autodiscover_tasks()
dynprio = DynPrio(app)
