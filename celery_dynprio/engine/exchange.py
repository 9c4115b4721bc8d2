"""Which tasks change places so that the best run next. Pure.

Scores and bands rise and fall with time, and tasks cross the edges of bands that keep their turn all the same. To move
those changes nothing. So a task moves only if it takes part in an exchange:

With F(n) the next n tasks to run and B(n) the n best, for n = ``near``, ``near``/2, ``near``/4, ..., 1, the worst of
F(n) - B(n) gives way to the best of B(n) - F(n), the next worst to the next best, and so on, while the better one's
score is above the other's by more than the margin; of equals, the older one is better. So at the end of the ``near``
tasks the order may wait, and the closer to the head, the more exact it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from celery_dynprio.engine.scored import Front, Scored, rank
from celery_dynprio.models import Place, is_level


@dataclass(frozen=True, slots=True)
class Exchanges:
    """Who takes part, by id: the better ones are lifted, some of the others lowered."""

    lifted: Mapping[str, Scored]
    lowered: Mapping[str, Scored]

    @classmethod
    def among(cls, front: Front, near: int, margin: float, home: Callable[[Scored], Place]) -> Exchanges:
        """Find those in a front, by the level where each task belongs (``home``).

        A task that gives way stays where it is if the better one gets ahead of it without that.
        """
        best, staying = front.best(near), front.first(near)
        lifted: dict[str, Scored] = {}
        lowered: dict[str, Scored] = {}
        count = len(staying)
        while count:
            coming = [each for each in best[:count] if each.task.id not in lifted]
            exchanged = list(pairs(staying[: len(coming)], coming, margin))
            lifted.update((into.task.id, into) for _, into in exchanged)
            lowered.update((out.task.id, out) for out, into in exchanged if home(into) >= out.place)
            if exchanged:
                staying = [each for each in staying if each.task.id not in lifted and each.task.id not in lowered]
            count //= 2
        return cls(lifted, lowered)

    @property
    def scores(self) -> set[float]:
        """The scores of all who take part."""
        return {each.score for each in chain(self.lifted.values(), self.lowered.values())}

    def include(self, each: Scored, target: Place) -> bool:
        """Tell whether a task is to go to this target; what comes from the overflow always is."""
        if not is_level(each.place):
            return True
        return each.task.id in (self.lifted if target < each.place else self.lowered)


def pairs(first: Sequence[Scored], best: Sequence[Scored], margin: float) -> Iterator[tuple[Scored, Scored]]:
    """Pair those who are only among the first, the worst first, with those who are only among the best, best first.

    The pairs end with the first that gains too little.
    """
    going = sorted(_without(first, best), key=rank, reverse=True)
    for out, into in zip(going, _without(best, first), strict=False):
        if not _is_ahead(into, out, margin):
            return
        yield out, into


def _is_ahead(into: Scored, out: Scored, margin: float) -> bool:
    """Tell whether one is better by more than the margin; of equals, the older one is."""
    if into.score == out.score:
        return into.task.published < out.task.published
    return into.score > out.score + margin


def _without(tasks: Iterable[Scored], gone: Iterable[Scored]) -> list[Scored]:
    ids = {each.task.id for each in gone}
    return [each for each in tasks if each.task.id not in ids]
