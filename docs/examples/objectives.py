"""Reports wait while checkouts start too late."""

from celery import Celery

from celery_dynprio import DynPrio, Objective

app = Celery("shop")
app.conf.dynprio_objectives = [
    Objective(
        "checkouts start in time",
        match="shop.checkout",
        within=5,
        target=0.95,
        on_breach="degrade",
        expendable=["shop.report", "shop.reindex"],
    ),
]
dynprio = DynPrio(app)
