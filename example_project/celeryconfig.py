"""Settings of the shop, Celery's and ours."""

from __future__ import annotations

import os

from celery_dynprio import Age, Deadline, FairShare, Objective, Weight

broker_url = os.environ.get("SHOP_BROKER", "redis://localhost:6379/0")
imports = ["example_project.tasks"]
task_ignore_result = True

# What a worker has reserved can no longer be put in order: it should reserve no more than it runs.
worker_disable_prefetch = True
worker_prefetch_multiplier = 1  # the next best, for Celery 5.5, which does not know the setting above
broker_connection_retry_on_startup = True

dynprio_queues = ["celery"]
# Orders are late after seconds, not minutes, so the horizon is short; age sees to it that the reindex runs some day.
dynprio_policy = 4 * Deadline(horizon=10) + 2 * Weight() + 3 * FairShare() + 1 * Age(saturation=300)
dynprio_interval = 0.5

# What customers notice: `dynprio stats` and the page in Flower tell how it stands.
dynprio_objectives = [
    Objective("checkouts start in time", match="example_project.tasks.checkout", within=2, target=0.95, window=60),
]

# Each move as a Celery event, for the page in Flower.
dynprio_events = True
