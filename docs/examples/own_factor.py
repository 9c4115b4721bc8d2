"""A custom factor."""

from celery_dynprio import Age, Context, PendingTask, Weight, factor

PAYING = frozenset({"tenant 1", "tenant 7"})


@factor
def paying(task: PendingTask, context: Context) -> float:
    return 1.0 if task.key in PAYING else 0.0


policy = 3 * paying + 2 * Weight() + 1 * Age(saturation=120)
