"""Workers with slots that take tasks ahead, as Celery's do."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from celery_dynprio.lab.jobs import Job


@dataclass(slots=True, eq=False)
class Node:
    """One worker: what it reserved starts on its own slots only, first in, first out."""

    slots: int
    #: Tasks that it takes ahead.
    ahead: int
    running: int = 0
    reserved: deque[Job] = field(default_factory=deque)
    #: Whether it asks the broker for a task now.
    asks: bool = False

    @property
    def has_room(self) -> bool:
        """Whether it would take another task."""
        return self.slots > 0 and self.running + len(self.reserved) < self.slots + self.ahead


class Nodes:
    """All workers. Those with room stand in line at the broker, each once, as with Redis's BRPOP."""

    def __init__(self, prefetch: int) -> None:
        self._prefetch = prefetch
        self._nodes: dict[str, Node] = {}
        self._line: deque[Node] = deque()
        self.slots = self.running = self.reserved = 0

    def set_slots(self, worker: str, slots: int, ahead: int | None = None) -> tuple[Node, list[Job]]:
        """Give a worker so many slots; return it, and what it reserved and gives back, the last one first.

        What it runs it finishes. It takes ``ahead`` tasks ahead, or as many for each slot as all do.
        """
        node = self._nodes.setdefault(worker, Node(0, 0))
        self.slots += slots - node.slots
        node.slots, node.ahead = slots, slots * self._prefetch if ahead is None else ahead
        returned = []
        while node.reserved and (not slots or len(node.reserved) > node.ahead):
            returned.append(node.reserved.pop())
        self.reserved -= len(returned)
        self.ask(node)
        return node, returned

    def next(self) -> Node | None:
        """The worker that asked first; None if none does."""
        while self._line:
            node = self._line.popleft()
            node.asks = False
            if node.has_room:
                return node
        return None

    def reserve(self, node: Node, job: Job) -> None:
        """Hand a task to a worker."""
        node.reserved.append(job)
        self.reserved += 1
        self.ask(node)

    def starting(self, node: Node) -> Iterator[Job]:
        """Yield what a worker starts now: as much of what it reserved as it has slots."""
        while node.reserved and node.running < node.slots:
            node.running += 1
            self.running += 1
            self.reserved -= 1
            yield node.reserved.popleft()

    def ended(self, node: Node) -> None:
        """Free the slot of a run."""
        node.running -= 1
        self.running -= 1
        self.ask(node)

    def ask(self, node: Node) -> None:
        """Put a worker at the end of the line, if it has room and is not in it."""
        if node.has_room and not node.asks:
            node.asks = True
            self._line.append(node)
