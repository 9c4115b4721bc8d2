"""Settings of the shop, Celery's and ours."""

from __future__ import annotations

import os

from celery_dynprio import Age, Deadline, FairShare, Objective, Weight

broker_url = os.environ.get("SHOP_BROKER", "redis://localhost:6379/0")
imports = ["example_project.tasks"]
task_ignore_result = True

# A task that a worker has reserved can no longer be reordered, so workers reserve no more than they run.
worker_disable_prefetch = True
worker_prefetch_multiplier = 1  # second best, for Celery 5.5, which lacks the setting above
broker_connection_retry_on_startup = True

dynprio_queues = ["celery"]
# Here orders are late after seconds, and a flood is over in seconds. So horizon and prior are short.
# Age makes sure that the reindex runs some day.
dynprio_policy = 4 * Deadline(horizon=10) + 2 * Weight() + 3 * FairShare() + 1 * Age(saturation=300)
dynprio_interval = 0.5

# What customers notice. `dynprio stats` and the page in Flower show whether it is met.
dynprio_objectives = [
    Objective("checkouts start in time", match="example_project.tasks.checkout", within=2, target=0.95, window=60),
]

# Sends each move as a Celery event, for the page in Flower.
dynprio_events = True
