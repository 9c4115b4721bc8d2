"""Dynamic priorities for the pending tasks of a running Celery system.

Two lines make an app's pending tasks keep the right order::

    from celery_dynprio import DynPrio

    dynprio = DynPrio(app)
"""

from __future__ import annotations

from celery_dynprio.app import DynPrio
from celery_dynprio.errors import DynPrioError
from celery_dynprio.models import Context, PendingTask
from celery_dynprio.objectives import Objective
from celery_dynprio.operators.selection import Filter
from celery_dynprio.policies import (
    Age,
    Deadline,
    Dependents,
    Factor,
    FairShare,
    Gauge,
    Max,
    Min,
    Policy,
    ShortestFirst,
    Weight,
    default_policy,
    factor,
)
from celery_dynprio.runtimes import Estimate, Runtimes
from celery_dynprio.task import DynPrioTask, dynprio_task

__version__ = "0.1.0"

__all__ = [
    "Age",
    "Context",
    "Deadline",
    "Dependents",
    "DynPrio",
    "DynPrioError",
    "DynPrioTask",
    "Estimate",
    "Factor",
    "FairShare",
    "Filter",
    "Gauge",
    "Max",
    "Min",
    "Objective",
    "PendingTask",
    "Policy",
    "Runtimes",
    "ShortestFirst",
    "Weight",
    "default_policy",
    "dynprio_task",
    "factor",
]
