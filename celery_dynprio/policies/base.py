"""A factor is one reason for urgency; a policy combines factors into one score and can explain it."""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeGuard

from celery_dynprio.durations import EXAMPLES, Duration, seconds
from celery_dynprio.errors import PolicyError
from celery_dynprio.models import Context, Contribution, PendingTask

#: What a factor or a policy becomes for one tick: a function from a task to a number in [0, 1].
Scorer: TypeAlias = Callable[[PendingTask], float]

#: The same for many tasks at once: a number for each, in their order.
ScoreAll: TypeAlias = Callable[[Sequence[PendingTask]], Sequence[float]]


@dataclass(frozen=True, slots=True)
class BulkScorer:
    """A scorer that knows a faster way to score many tasks at once.

    :meth:`Factor.bind` may return one. ``all`` must give each task the number that ``one`` gives it. The built-in
    factors have such a way; a factor that returns a plain function is asked for each task.
    """

    one: Scorer
    all: ScoreAll

    def __call__(self, task: PendingTask) -> float:
        """Score one task."""
        return self.one(task)


class Factor(ABC):
    """One reason for urgency, in [0, 1]; 1 is most urgent. Subclass it, or see :func:`~celery_dynprio.factor`."""

    #: Whether it may ask what is ahead of a task (:attr:`~celery_dynprio.Context.ahead`). What does not is asked once a
    #: tick for each task, anything else twice: without what is ahead, to put the tasks of a key in order, and with it.
    asks_ahead: bool = True

    #: Whether tasks of one key only differ in it by what is ahead of them.
    alike_in_key: bool = False

    @property
    def name(self) -> str:
        """The name of this factor in explanations and metrics."""
        return type(self).__name__

    @property
    def patience(self) -> float | None:
        """Seconds after which a waiting task counts as starving; None if the factor ignores waiting time."""
        return None

    @abstractmethod
    def bind(self, context: Context) -> Scorer:
        """Return the function that scores tasks in this context; called once a tick, and once a publish.

        It may be a :class:`BulkScorer`.
        """

    def __call__(self, task: PendingTask, context: Context) -> float:
        """Score one task; for many in one context, call :meth:`bind` once."""
        return self.bind(context)(task)

    def __rmul__(self, weight: float) -> Policy:
        return Policy(((weight, self),))

    __mul__ = __rmul__

    def __add__(self, other: Factor | Policy) -> Policy:
        return 1 * self + other


@dataclass(frozen=True, eq=False, repr=False)
class Policy:
    """The weighted mean of factors, in [0, 1]: sum(weight * value) / sum(weight), as in Slurm's multifactor plugin.

    Written as a formula: ``2 * Weight() + Age(saturation=300)``. Only the proportions of the weights count. Raises
    :class:`~celery_dynprio.errors.PolicyError` unless there are terms and each weight is a finite number above 0.
    """

    terms: tuple[tuple[float, Factor], ...]

    def __post_init__(self) -> None:
        for weight, factor in self.terms:
            if not isinstance(factor, Factor):
                raise PolicyError(f"{factor!r} is not a factor: combine factors such as Weight(), or use @factor")
            if not is_number(weight) or weight <= 0:
                raise PolicyError(f"weight {weight!r} of {factor!r}: use a finite number above 0, or leave it out")
        if not (0 < self._total < math.inf):
            raise PolicyError(f"the weights of {self!r} sum to {self._total}: use weights with a finite sum above 0")

    def score(self, task: PendingTask, context: Context) -> float:
        """Score one task; for many in one context, call :meth:`bind` once."""
        return self.bind(context)(task)

    def bind(
        self, context: Context, rest: BulkScorer | None = None, beat: Callable[[], object] = lambda: None
    ) -> BulkScorer:
        """Return what scores tasks in this context. Exceptions of factors are not caught when it scores one task.

        When it scores many, the score of a task for which a factor raised is NaN, and ``beat`` is called before each
        task that a factor is asked for. ``rest`` gives the sum of weight * value of those terms that do not ask what is
        ahead, if it is known already.
        """
        total = self._total  # summed in the order of the terms: then rounding never gives a score above 1
        asked = [(weight, factor) for weight, factor in self.terms if rest is None or factor.asks_ahead]
        terms = [(weight, factor.bind(context)) for weight, factor in asked]
        ones = [(weight, one_of(scorer)) for weight, scorer in terms]

        def score(task: PendingTask) -> float:
            value = 0.0
            for weight, scorer in ones:
                value += weight * scorer(task)
            return value / total

        def score_with_rest(task: PendingTask) -> float:
            value = known(task)
            for weight, scorer in ones:
                value += weight * scorer(task)
            return min(value / total, 1.0)

        def score_all(tasks: Sequence[PendingTask]) -> Sequence[float]:
            values = [0.0] * len(tasks) if rest is None else rest.all(tasks)
            sums = add_terms(values, terms, tasks, beat)
            if rest is None:
                return [value / total for value in sums]
            return [1.0 if value > total else value / total for value in sums]

        known = rest or score
        return BulkScorer(score if rest is None else score_with_rest, score_all)

    def explain(self, task: PendingTask, context: Context) -> tuple[Contribution, ...]:
        """Return what each term adds to the score of a task; the contributions sum to the score."""
        values = [(factor.name, factor(task, context), weight) for weight, factor in self.terms]
        return tuple(Contribution(name, value, weight, value * weight / self._total) for name, value, weight in values)

    @property
    def patience(self) -> float | None:
        """Seconds after which a waiting task counts as starving: the longest patience of a factor; None without any."""
        return longest_patience(*(factor for _, factor in self.terms))

    @property
    def _total(self) -> float:
        total = 0.0
        for weight, _ in self.terms:  # as a score is: from Python 3.12 on, sum() rounds otherwise
            total += weight
        return total

    def __add__(self, other: Factor | Policy) -> Policy:
        if isinstance(other, Factor):
            other = 1 * other
        if not isinstance(other, Policy):
            return NotImplemented
        return Policy(self.terms + other.terms)

    def __rmul__(self, weight: float) -> Policy:
        if not is_number(weight) or weight <= 0:
            raise PolicyError(f"{weight!r} * policy: use a finite number above 0")
        return Policy(tuple((weight * own, factor) for own, factor in self.terms))

    __mul__ = __rmul__

    def __repr__(self) -> str:
        return " + ".join(f"{weight!r} * {factor!r}" for weight, factor in self.terms)


def one_of(scorer: Scorer) -> Scorer:
    """Return what scores one task, in the least time."""
    return scorer.one if isinstance(scorer, BulkScorer) else scorer


def all_of(scorer: Scorer, tasks: Sequence[PendingTask]) -> Sequence[float]:
    """Return the scores of these tasks, at once if the scorer knows how."""
    return scorer.all(tasks) if isinstance(scorer, BulkScorer) else list(map(scorer, tasks))


def add_terms(
    values: Sequence[float],
    terms: Sequence[tuple[float, Scorer]],
    tasks: Sequence[PendingTask],
    beat: Callable[[], object],
) -> Sequence[float]:
    """Return these values, each with the sum of weight * score of its task; NaN where a factor raises."""
    for weight, scorer in terms:
        column = scorer.all(tasks) if isinstance(scorer, BulkScorer) else _one_by_one(scorer, tasks, beat)
        values = [value + weight * score for value, score in zip(values, column, strict=True)]
    return values


def _one_by_one(scorer: Scorer, tasks: Sequence[PendingTask], beat: Callable[[], object]) -> Sequence[float]:
    found = []
    for task in tasks:
        beat()
        try:
            found.append(scorer(task))
        except Exception:  # noqa: BLE001 - the user's code may raise anything, and does so again when asked for one task
            found.append(math.nan)
    return found


def longest_patience(*factors: Factor) -> float | None:
    """Return the longest patience (seconds) of these factors, None if none of them has one."""
    return max((factor.patience for factor in factors if factor.patience is not None), default=None)


def is_number(value: object) -> TypeGuard[float]:
    """Tell whether this is a finite real number; a bool is a mistake, not a number."""
    return isinstance(value, (int, float)) and type(value) is not bool and abs(value) <= sys.float_info.max


def require_positive(factor: str, option: str, value: object) -> None:
    """Raise :class:`~celery_dynprio.errors.PolicyError` unless the value of a factor's option is a number above 0."""
    if not is_number(value) or value <= 0:
        raise PolicyError(f"{factor}({option}={value!r}): use a finite number above 0")


def positive_seconds(factor: str, option: str, value: Duration) -> float:
    """Return the seconds of a factor's option; :class:`~celery_dynprio.errors.PolicyError` unless they are above 0."""
    found = seconds(value)
    if found is None or found <= 0:
        raise PolicyError(f"{factor}({option}={value!r}): use {EXAMPLES}, above 0")
    return found
