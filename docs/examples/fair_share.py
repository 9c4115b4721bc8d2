"""Fair share between tenants, with more for some of them."""

from celery import Celery

from celery_dynprio import Age, Deadline, DynPrio, FairShare, Weight, dynprio_task

app = Celery("shop", broker="redis://localhost:6379/0")
app.conf.dynprio_policy = (
    4 * Deadline(horizon=60) + 2 * Weight() + 3 * FairShare(shares={"gold": 4, "trial": 0.5}) + 1 * Age(saturation=300)
)
dynprio = DynPrio(app)


@dynprio_task(key="tenant")
def export(tenant, path): ...
