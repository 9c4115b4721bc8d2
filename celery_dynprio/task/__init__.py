"""What a task declares, what a call asks for, and ``dynprio_task``, the decorator for it."""

from __future__ import annotations

from celery_dynprio.task.declaring import DynPrioTask, dynprio_task
from celery_dynprio.task.options import Doubt, TaskOptions, call_fields, check_call, options_of, refuse

__all__ = [
    "Doubt",
    "DynPrioTask",
    "TaskOptions",
    "call_fields",
    "check_call",
    "dynprio_task",
    "options_of",
    "refuse",
]
