"""What a worker gives back to the broker goes where workers without the add-on look too, whoever published it.

A worker that stops gives back what it has reserved, and any worker gives back what a dead one had, of whatever queue of
the broker. kombu then chooses the list by the message's priority and by the steps of the process. Ours are more than
those of a worker without the add-on: a message that a producer without it sent with priority 5 would come into a list
that such a worker never asks for.
"""

from __future__ import annotations

from typing import Any

from celery import bootsteps

from celery_dynprio.levels import Scale


class RestoreToPlainLists(bootsteps.StartStopStep):
    """The step of a worker's consumer that sees to it, at each connection anew."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, c: Any) -> None:
        """Change what ``Channel._do_restore_message`` asks for (kombu 5.5 to 5.7), in the worker's own channel only."""
        channel = c.task_consumer.channel
        steps = getattr(channel, "priority_steps", None)
        scale = None if steps is None else Scale.of(steps)
        if scale is not None and scale.plain_numbers != scale.numbers:
            channel._get_message_priority = _rounded(channel._get_message_priority, scale)  # noqa: SLF001


def _rounded(priority_of: Any, scale: Scale) -> Any:
    def priority(message: Any, **options: Any) -> int:
        return scale.number_of(scale.level_of(priority_of(message, **options)))

    return priority
