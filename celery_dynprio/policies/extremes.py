"""The largest or the smallest of several factors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from celery_dynprio.errors import PolicyError
from celery_dynprio.models import Context
from celery_dynprio.policies.base import Factor, Scorer, longest_patience


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
        return self._choose([factor.bind(context) for factor in self.factors])

    @staticmethod
    @abstractmethod
    def _choose(scorers: Sequence[Scorer]) -> Scorer: ...

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.factors))})"


class Max(_Extreme):
    """The largest of the factors, Zadeh's "or" of degrees (1965): any one of the reasons is enough."""

    @staticmethod
    def _choose(scorers: Sequence[Scorer]) -> Scorer:
        return lambda task: max([scorer(task) for scorer in scorers])


class Min(_Extreme):
    """The smallest of the factors, Zadeh's "and" of degrees (1965): each of them can hold a task back."""

    @staticmethod
    def _choose(scorers: Sequence[Scorer]) -> Scorer:
        return lambda task: min([scorer(task) for scorer in scorers])
