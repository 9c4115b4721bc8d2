"""A deadline at a time of day, in a time zone."""

from datetime import datetime
from zoneinfo import ZoneInfo

from celery import Celery

from celery_dynprio import DynPrio, dynprio_task

app = Celery("shop", broker="redis://localhost:6379/0")
app.conf.timezone = "Europe/Berlin"
dynprio = DynPrio(app)


@dynprio_task(deadline="1h")
def settle(account): ...


def settle_before_the_bank_closes(account):
    closes = datetime.now(ZoneInfo("Europe/Berlin")).replace(hour=17, minute=0, second=0, microsecond=0)
    settle.apply_async((account,), dynprio={"deadline": closes})
