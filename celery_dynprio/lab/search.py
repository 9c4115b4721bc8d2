"""Searches the numbers of a policy for several objectives at once, with Optuna, an extra.

Its sampler, a tree-structured Parzen estimator for several objectives (Ozaki et al. 2020), is seeded: the same
arguments and the same version of Optuna try the same policies in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from celery_dynprio.errors import ArgumentError, DynPrioError
from celery_dynprio.lab.knobs import Knob, Knobs
from celery_dynprio.policies import Policy

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

#: What a policy attains in each of the objectives.
Values: TypeAlias = tuple[float, ...]

#: What the extra ``tune`` brings.
MISSING: Final = 'tuning needs a package: pip install "optuna>=4,<6"'


class Trial(NamedTuple):
    """A policy that was tried, and what it attained."""

    policy: Policy
    values: Values


@dataclass(frozen=True, slots=True)
class Searched:
    """What a search found."""

    #: Those that were tried, the given policy first.
    trials: Sequence[Trial]
    #: Those of them that no other one beats in all objectives; of those that attain the same, the first one.
    front: Sequence[Trial]
    #: Whether it was ended before all trials were made.
    cut_short: bool


class Search:
    """Other numbers for a policy, tried one after another: what Optuna proposes and what that attains.

    ``start`` is the policy with what it attains, ``more`` says for each objective whether a larger value is better.
    Raises :class:`~celery_dynprio.errors.DynPrioError` if Optuna is not installed, and
    :class:`~celery_dynprio.errors.ArgumentError` if the policy has no number that can be turned.
    """

    def __init__(self, start: Trial, more: Sequence[bool], *, seed: int = 0) -> None:
        self._optuna, self._knobs, self._start = _optuna(), Knobs(start.policy), start
        knobs = self._knobs.all
        if not knobs:
            text = "it has no number to search for: the weight of a single factor is none"
            raise ArgumentError("policy", start.policy, text)
        self._ranges = {f"{number} {knob.title}": _range(self._optuna, knob) for number, knob in enumerate(knobs)}
        own = dict(zip(self._ranges, [knob.own for knob in knobs], strict=True))
        directions = ["maximize" if each else "minimize" for each in more]
        with _quiet(self._optuna):
            sampler = self._optuna.samplers.TPESampler(seed=seed)
            self._study = self._optuna.create_study(directions=directions, sampler=sampler)
            given = self._optuna.create_trial(params=own, distributions=self._ranges, values=start.values)
            self._study.add_trial(given)

    def run(
        self,
        play: Callable[[Policy], Values],
        *,
        trials: int,
        enough: Callable[[], bool] = lambda: False,
        progress: Callable[[], object] = lambda: None,
    ) -> Searched:
        """Try so many policies, each by ``play``, which returns what it attains.

        After each trial ``progress`` is called, and the search ends if ``enough`` says so. Ctrl-C ends it too; then
        what was found until then is returned.
        """
        tried = [self._start]
        with suppress(KeyboardInterrupt), _quiet(self._optuna):
            while len(tried) <= trials and not enough():
                asked = self._study.ask(self._ranges)
                policy = self._policy(asked.params.values())
                values = play(policy)
                tried.append(Trial(policy, values))
                self._study.tell(asked, values)
                progress()
        best = sorted(each.number for each in self._study.best_trials)  # the start has number 0
        front = {each.values: each for each in (tried[number] for number in reversed(best))}
        return Searched(tried, list(reversed(front.values())), len(tried) <= trials)

    def _policy(self, numbers: Iterable[Any]) -> Policy:
        return self._knobs.policy([knob.value(each) for knob, each in zip(self._knobs.all, numbers, strict=True)])


def spread(front: Sequence[Trial], more: Sequence[bool], most: int) -> list[Trial]:
    """At most so many of a front: the best in each objective, then again and again the one farthest from all taken."""
    axes = [(min(column), max(column)) for column in zip(*(each.values for each in front), strict=True)]
    places = [[_place(value, *axis) for value, axis in zip(each.values, axes, strict=True)] for each in front]
    ends = [
        (max if larger else min)(range(len(front)), key=lambda at: places[at][axis]) for axis, larger in enumerate(more)
    ]
    taken = list(dict.fromkeys(ends))
    while len(taken) < min(most, len(front)):
        left = [at for at in range(len(front)) if at not in taken]
        taken.append(max(left, key=lambda at: min(math.dist(places[at], places[one]) for one in taken)))
    return [front[at] for at in sorted(taken[:most], key=lambda at: front[at].values)]


def _place(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.0


def require_optuna() -> None:
    """Raise :class:`~celery_dynprio.errors.DynPrioError`, which says what to type, if Optuna is not installed."""
    _optuna()


def _optuna() -> Any:
    try:
        import optuna  # noqa: PLC0415 - an extra, and it takes a second
    except ImportError as exc:
        raise DynPrioError(MISSING) from exc
    return optuna


def _range(optuna: Any, knob: Knob) -> BaseDistribution:
    kind = optuna.distributions.IntDistribution if knob.whole else optuna.distributions.FloatDistribution
    found: BaseDistribution = kind(knob.low, knob.high, log=True)
    return found


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Without Optuna's line for each trial."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
