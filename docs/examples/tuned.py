"""The policy that tune found from the first try."""

from celery_dynprio import Age, Deadline, FairShare, Weight

policy = 1 * Deadline(horizon=6.6) + 8.6 * Weight() + 0.11 * FairShare() + 0.44 * Age(saturation=79)
