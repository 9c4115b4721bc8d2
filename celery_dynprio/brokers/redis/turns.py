"""Managed and unmanaged queues of one worker take turns.

kombu's BRPOP asks for level 0 of every queue before it asks for level 1 of any. What is published to an unmanaged queue
is at level 0, so a backlog there would keep the worker from all that a managed queue has at its other levels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import kombu
from celery import bootsteps

from celery_dynprio.ports.installation import installation_of

logger = logging.getLogger("celery_dynprio.turns")


class Turns:
    """In place of kombu's cycle of the queues that a channel takes from, which it keeps and asks.

    The queues in ``managed`` count as one: their turn goes to the most urgent of their tasks. Whose turn it is, is up
    to the cycle, so that a ``queue_order_strategy`` of the user's stands.
    """

    def __init__(self, channel: Any, managed: frozenset[str]) -> None:
        self._cycle = channel._queue_cycle  # noqa: SLF001 - nothing public tells it
        self._key: Callable[[str, int], str] = channel._q_for_pri  # noqa: SLF001 - kombu's rule, the same in all versions
        self._steps: Sequence[int] = channel.priority_steps
        self._managed = managed
        self._keys: dict[str, list[str]] = {}
        self._together: frozenset[str] = frozenset()
        self._in_order: list[str] = []
        self.update(channel.active_queues)

    def update(self, queues: Iterable[str]) -> None:
        """Take in which queues there are now."""
        there = frozenset(queues)
        managed = there & self._managed
        self._together = managed if managed != there else frozenset()
        self._cycle.update(queues)

    def consume(self, count: int) -> Sequence[str] | Iterator[str]:
        """Return the keys to ask for, in this order; or the queues, if all of them are managed or none is.

        An iterator, because ``Channel._brpop_start`` (kombu 5.5 to 5.7) goes through the queues once for each step:
        the first step, 0, leaves a key as it is, and the others find nothing more to add to.
        """
        queues: Sequence[str] = self._cycle.consume(count)
        return iter(self._order(queues)) if self._together else queues

    def rotate(self, queue: str) -> None:
        """End the turn that this queue had, which was that of all managed queues if it is one of them."""
        if queue in self._together:
            for each in self._in_order:
                if each != queue:
                    self._cycle.rotate(each)
        self._cycle.rotate(queue)

    def _order(self, queues: Iterable[str]) -> list[str]:
        keys: list[str] = []
        managed = self._in_order = [queue for queue in queues if queue in self._together]
        for queue in queues:
            if queue not in self._together:
                keys += self._keys_of(queue)
            elif queue == managed[0]:
                by_level = zip(*map(self._keys_of, managed), strict=True)
                keys += [key for level in by_level for key in level]
        return keys

    def _keys_of(self, queue: str) -> list[str]:
        found = self._keys.get(queue)
        if found is None:
            found = self._keys[queue] = [self._key(queue, step) for step in self._steps]
        return found


class TakeTurns(bootsteps.StartStopStep):
    """The step of a worker's consumer that gives its channel the turns, at each connection anew."""

    requires = ("celery.worker.consumer.tasks:Tasks",)
    _warned = False

    def include_if(self, parent: Any) -> bool:
        """Whether the broker can have managed queues at all."""
        installation = installation_of(parent.app)
        return installation is not None and installation.supported

    def start(self, c: Any) -> None:
        """Take the place of the cycle before the first BRPOP, which the worker's loop sends after all steps."""
        installation = installation_of(c.app)
        if installation is None:
            return
        channel, managed = c.task_consumer.channel, frozenset(installation.settings.queues)
        if keeps_order(channel):
            channel._queue_cycle = Turns(channel, managed)  # noqa: SLF001 - nothing public replaces it
        elif not self._warned:
            self._warned = True
            logger.warning(
                "kombu %s asks for tasks in a way that dynprio does not know: a worker that takes from a managed queue "
                "(%s) and from others takes the others' tasks first: give them workers of their own, with -Q",
                kombu.__version__,
                ", ".join(sorted(managed)),
            )


def keeps_order(channel: Any) -> bool:
    """Whether the BRPOP of this kombu asks for the keys that a cycle iterates over, in their order.

    Asked of ``_brpop_start`` itself, with a connection that only keeps what would be sent.
    """
    sent: list[Any] = []
    keys = ["b", f"b{channel.sep}3", "a"]
    stand_in = SimpleNamespace(
        _q_for_pri=channel._q_for_pri,  # noqa: SLF001 - as in the step
        _queue_cycle=SimpleNamespace(consume=lambda _: iter(keys)),
        active_queues=["a", "b"],
        brpop_timeout=1,
        client=SimpleNamespace(connection=SimpleNamespace(send_command=lambda *command: sent.extend(command))),
        global_keyprefix="",
        priority_steps=channel.priority_steps,
    )
    try:
        type(channel)._brpop_start(stand_in)  # noqa: SLF001 - what is tried out
    except Exception:  # noqa: BLE001 - a kombu that needs more than this is one that we do not know
        return False
    return sent[:-1] == ["BRPOP", *keys] and hasattr(channel, "_queue_cycle")
