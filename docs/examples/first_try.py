"""A policy as one writes it first: something of everything."""

from celery_dynprio import Age, Deadline, FairShare, Weight

policy = 1 * Deadline(horizon=60) + 1 * Weight() + 1 * FairShare() + 4 * Age(saturation=10)
