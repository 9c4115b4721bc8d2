"""Settings as they come from YAML, JSON or the environment."""

import os

from celery import Celery

from celery_dynprio import DynPrio

app = Celery("shop", broker="redis://localhost:6379/0")
app.conf.update(
    dynprio_queues=os.environ.get("SHOP_QUEUES", "celery,mails"),
    dynprio_embedded=os.environ.get("SHOP_EMBEDDED", "true"),
    dynprio_lease_ttl="10s",
    dynprio_policy={
        "deadline": {"weight": 4, "horizon": "1m"},
        "weight": 2,
        "fair_share": 3,
        "age": {"weight": 1, "saturation": "5m"},
    },
    dynprio_objectives=[{"name": "checkouts", "match": "shop.checkout", "within": "5s", "target": 0.99}],
)
dynprio = DynPrio(app)
print(dynprio.settings.policy)
