"""Which of the wanted moves are made now: what matters most, for as much broker time as a tick may take. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from celery_dynprio.engine.homes import Unit
from celery_dynprio.models import Move, Place, is_level


@dataclass(frozen=True, slots=True)
class Budget:
    """Seconds of broker time that the moves of one tick may take, by their ``cost``, in a queue with ``levels``."""

    seconds: float
    cost: Callable[[Move], float]
    levels: int

    def choose(self, units: Iterable[Unit]) -> tuple[list[Move], int]:
        """Choose what matters most until the budget is spent; return the moves, and how many were deferred."""
        chosen: list[Move] = []
        left, deferred = self.seconds, 0
        for unit in sorted(units, key=self._importance):
            prices = [self.cost(move) for move in unit]
            if len(unit) > 1 and self._demotes(unit) and left < sum(prices) <= self.seconds:
                deferred += len(unit)  # done in part, it would leave the younger ahead
                continue
            for move, price in zip(unit, prices, strict=True):
                if price > left and chosen:
                    break
                left -= price
                chosen.append(move)
                deferred -= 1
            deferred += len(unit)
        return chosen, deferred

    def _importance(self, unit: Unit) -> tuple[int, int, float, str]:
        """Moves into or out of the most urgent levels first, then the longest, then the oldest task's."""
        first = unit[0]
        if first.reason == "starving":
            return -1, 0, 0.0, ""
        urgent, distance = min(map(self._reach, unit)) if len(unit) > 1 else self._reach(first)
        return urgent, distance, first.task.published, first.task.id

    def _reach(self, move: Move) -> tuple[int, int]:
        source, target = self._depth(move.source), self._depth(move.target)
        return (source, source - target) if source < target else (target, target - source)

    def _demotes(self, unit: Unit) -> bool:
        return any(self._depth(move.source) < self._depth(move.target) for move in unit)

    def _depth(self, place: Place) -> int:
        """How far a place is from the workers: parked is behind the last level."""
        return place if is_level(place) else self.levels
