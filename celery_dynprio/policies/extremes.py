"""The largest or the smallest of several factors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence

from celery_dynprio.errors import PolicyError
from celery_dynprio.models import Context, PendingTask
from celery_dynprio.policies.base import BulkScorer, Factor, Scorer, longest_patience


class _Extreme(Factor):
    def __init__(self, *factors: Factor) -> None:
        kind = type(self).__name__
        for factor in factors:
            if not isinstance(factor, Factor):
                raise PolicyError(f"{kind}(...): {factor!r} is not a factor; weights belong in front of {kind}")
        if len(factors) < 2:  # noqa: PLR2004 - one has no extremes
            raise PolicyError(f"{kind} of {len(factors)} factors: use two or more")
        self.factors = factors
        self.asks_ahead = any(factor.asks_ahead for factor in factors)

    @property
    def patience(self) -> float | None:
        """The longest patience of the members."""
        return longest_patience(*self.factors)

    def bind(self, context: Context) -> Scorer:
        """Return the scorer."""
        choose, scorers = self._choose, [factor.bind(context) for factor in self.factors]
        bulk = [scorer for scorer in scorers if isinstance(scorer, BulkScorer)]

        def score(task: PendingTask) -> float:
            return choose([scorer(task) for scorer in scorers])

        def score_all(tasks: Sequence[PendingTask]) -> Sequence[float]:
            return list(map(choose, zip(*(scorer.all(tasks) for scorer in bulk), strict=True)))

        return BulkScorer(score, score_all) if len(bulk) == len(scorers) else score

    @staticmethod
    @abstractmethod
    def _choose(values: Iterable[float]) -> float: ...

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.factors))})"


class Max(_Extreme):
    """The largest of the factors, Zadeh's "or" of degrees (1965): any one of the reasons is enough."""

    @staticmethod
    def _choose(values: Iterable[float]) -> float:
        return max(values)


class Min(_Extreme):
    """The smallest of the factors, Zadeh's "and" of degrees (1965): each of them can hold a task back."""

    @staticmethod
    def _choose(values: Iterable[float]) -> float:
        return min(values)
