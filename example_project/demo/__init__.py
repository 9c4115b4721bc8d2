"""``make demo``: the shop under a load that is too much for a while, with plain Celery and then with celery_dynprio."""
