"""Reasons for urgency and how to combine them: ``4 * Deadline(horizon=60) + 2 * Weight() + 3 * FairShare()``."""

from __future__ import annotations

from celery_dynprio.policies.age import Age
from celery_dynprio.policies.base import BulkScorer, Factor, Policy, Scorer
from celery_dynprio.policies.deadline import Deadline
from celery_dynprio.policies.dependents import Dependents
from celery_dynprio.policies.extremes import Max, Min
from celery_dynprio.policies.fair_share import FairShare
from celery_dynprio.policies.function import factor
from celery_dynprio.policies.gauge import Gauge
from celery_dynprio.policies.shortest_first import ShortestFirst
from celery_dynprio.policies.weight import Weight

__all__ = [
    "Age",
    "BulkScorer",
    "Deadline",
    "Dependents",
    "Factor",
    "FairShare",
    "Gauge",
    "Max",
    "Min",
    "Policy",
    "Scorer",
    "ShortestFirst",
    "Weight",
    "default_policy",
    "factor",
]


def default_policy() -> Policy:
    """Tasks near a deadline that they can still meet and short ones first, then fairness, importance, and age.

    Of those tried in replays of several workloads, these numbers were the best: ``docs/benchmarks.md`` has the figures.
    """
    due, short = Deadline(horizon=40, late=0), ShortestFirst(scale=None)
    return 48 * due + 2 * Weight() + 9 * FairShare() + 1 * Age(saturation=300) + 40 * short
