"""The numbers of a policy that can be turned: weights, horizons, saturations and the like. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, Final, NamedTuple

from celery_dynprio.policies import Factor, Max, Min, Policy
from celery_dynprio.policies.base import is_number

#: A number is looked for between its present value divided by this and multiplied by this.
REACH: Final = 10.0


class Knob(NamedTuple):
    """One number of a policy."""

    #: As in "weight of Deadline" or "horizon of Deadline".
    title: str
    #: Its present value, above 0.
    own: float
    #: Whether it has to stay a whole number.
    whole: bool = False

    @property
    def low(self) -> float:
        """The smallest value that is tried."""
        return max(round(self.own / REACH), 1) if self.whole else self.own / REACH

    @property
    def high(self) -> float:
        """The largest value that is tried."""
        return round(self.own * REACH) if self.whole else self.own * REACH

    def value(self, found: float) -> float:
        """A value with two digits that count: more would promise what no search can tell."""
        return round(found) if self.whole else float(f"{found:.2g}")


class Knobs:
    """All numbers of a policy, and the policy with other ones.

    These are the weights of its terms, but for the first one, as only their proportions count, and the numbers above 0
    that are fields of a factor which is a dataclass, as the built-in ones are. A field is left out if the factor
    cannot be made with the values at both ends. Members of ``Max`` and ``Min`` are looked into.
    """

    def __init__(self, policy: Policy) -> None:
        self._terms = policy.terms
        self.all: Sequence[Knob] = tuple(self._find())

    def _find(self) -> Iterator[Knob]:
        for number, (weight, factor) in enumerate(self._terms):
            if number:
                yield Knob(f"weight of {factor.name}", float(weight))
            yield from _knobs_of(factor)

    def policy(self, values: Sequence[float]) -> Policy:
        """The policy with these values, one for each knob."""
        left = iter(values)
        terms = []
        for number, (weight, factor) in enumerate(self._terms):
            terms.append((next(left) if number else weight, _with(factor, left)))
        return Policy(tuple(terms))


def _knobs_of(factor: Factor) -> Iterator[Knob]:
    if isinstance(factor, (Max, Min)):
        for each in factor.factors:
            yield from _knobs_of(each)
    for name, knob in _fields(factor).items():
        yield knob._replace(title=f"{name} of {factor.name}")


def _with(factor: Factor, values: Iterator[float]) -> Factor:
    if isinstance(factor, (Max, Min)):
        return type(factor)(*[_with(each, values) for each in factor.factors])
    names = _fields(factor)
    return _remade(factor, {name: next(values) for name in names}) if names else factor


def _fields(factor: Any) -> dict[str, Knob]:
    """The fields of a factor that can be turned."""
    if not is_dataclass(factor):
        return {}
    found = {}
    for each in fields(factor):
        value = getattr(factor, each.name)
        if each.init and is_number(value) and value > 0:
            knob = Knob(each.name, value, each.type in {int, "int"})
            if _turns(factor, knob):
                found[each.name] = knob
    return found


def _turns(factor: Any, knob: Knob) -> bool:
    """Whether the factor can be made with the values at both ends."""
    ends = [knob.low, knob.high]
    try:
        made = [_remade(factor, {knob.title: each}) for each in ends]
    except Exception:  # noqa: BLE001 - whatever a user's own factor refuses with
        return False
    return [getattr(each, knob.title) for each in made] == ends


def _remade(factor: Any, values: dict[str, float]) -> Factor:
    made: Factor = replace(factor, **values)
    return made
