"""Policies and objectives as plain data: what YAML, JSON and the environment can hold."""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from celery_dynprio.errors import DynPrioError, PolicyError
from celery_dynprio.hosting.loading import import_symbol
from celery_dynprio.objectives import Objective
from celery_dynprio.policies import (
    Age,
    Deadline,
    Dependents,
    Factor,
    FairShare,
    Gauge,
    Max,
    Min,
    Policy,
    ShortestFirst,
    Weight,
)

_FACTORS: Final[Mapping[str, type[Factor]]] = {
    "age": Age,
    "deadline": Deadline,
    "dependents": Dependents,
    "fair_share": FairShare,
    "gauge": Gauge,
    "max": Max,
    "min": Min,
    "shortest_first": ShortestFirst,
    "weight": Weight,
}


def policy_of(data: Mapping[str, Any] | Sequence[Any]) -> Policy:
    """Return the policy that plain data describes.

    A mapping has a weight, or a weight and options, for each factor: ``{"weight": 2, "age": {"weight": 1,
    "saturation": "5m"}}``. A list of mappings with a ``factor`` can have several of one kind: ``[{"factor": "gauge",
    "source": "proj.load:cpu", "high": 90}]``. A factor of the user's own is a "module:attribute"; ``max`` and ``min``
    have their factors in a list ``of``. Raises :class:`~celery_dynprio.errors.DynPrioError`.
    """
    if not data:
        raise PolicyError("give it one factor at least")
    terms = data.items() if isinstance(data, Mapping) else map(_named, data)
    return Policy(tuple(_term(str(name), options) for name, options in terms))


def data_of(policy: Policy) -> list[dict[str, Any]] | None:
    """Return plain data from which :func:`policy_of` makes the same policy; None if plain data cannot say it."""
    try:
        found = [{"weight": weight, **_data(factor)} for weight, factor in policy.terms]
        same = policy_of(json.loads(json.dumps(found)))
    except (TypeError, ValueError, AttributeError, DynPrioError):  # a function, or a factor of the user's own
        return None
    return found if repr(same) == repr(policy) else None


def _data(factor: Factor) -> dict[str, Any]:
    name = next((name for name, kind in _FACTORS.items() if type(factor) is kind), None)
    if name is None:
        raise PolicyError(f"{factor!r} is no factor of this package")
    if isinstance(factor, (Max, Min)):
        return {"factor": name, "of": [_data(each) for each in factor.factors]}
    options = inspect.signature(type(factor)).parameters
    return {"factor": name, **{option: getattr(factor, option) for option in options}}


def objectives_of(data: Mapping[str, Any] | Sequence[Any]) -> tuple[Objective, ...]:
    """Return the objectives that plain data describes.

    It is a list of mappings with the fields of an :class:`~celery_dynprio.Objective` (or of such objects), or a mapping
    from names to the other fields; ``hook`` may be a "module:attribute". Raises
    :class:`~celery_dynprio.errors.DynPrioError`.
    """
    if isinstance(data, Mapping):
        data = [{"name": name, **_mapping(name, value)} for name, value in data.items()]
    return tuple(each if isinstance(each, Objective) else _objective(each) for each in data)


def _term(name: str, options: Any) -> tuple[float, Factor]:
    if not isinstance(options, Mapping):
        return options, _factor(name, {})
    rest = dict(options)
    weight = rest.pop("weight", 1)
    return weight, _factor(name, rest)


def _named(item: Any) -> tuple[str, dict[str, Any]]:
    """The name and the options of a factor in a list."""
    if isinstance(item, str):
        return item, {}
    if not isinstance(item, Mapping) or not isinstance(item.get("factor"), str):
        raise PolicyError(f'{item!r}: use a dict such as {{"factor": "age", "weight": 1, "saturation": "5m"}}')
    return item["factor"], {option: value for option, value in item.items() if option != "factor"}


def _factor(name: str, options: dict[str, Any]) -> Factor:
    if ":" in name:
        return _own(name, options)
    kind = _FACTORS.get(name) or next((kind for kind in _FACTORS.values() if kind.__name__ == name), None)
    if kind is None:
        raise PolicyError(_unknown("factor", name, [*_FACTORS, '"module:attribute" for one of your own']))
    if kind in {Max, Min}:
        members = options.pop("of", ())
        _check_names(name, options, ["of"])
        return kind(*(_factor(*_named(each)) for each in members))
    if isinstance(options.get("source"), str):
        options["source"] = _imported(options["source"])
    _check_names(name, options, inspect.signature(kind).parameters)
    _check_required(name, options, kind)
    return kind(**options)


def _own(place: str, options: Mapping[str, Any]) -> Factor:
    """Return a factor of the user's own, or what their class or function makes."""
    found = _imported(place)
    if not isinstance(found, Factor) and callable(found):
        found = found(**options)
    elif options:
        raise PolicyError(f"{place} is a factor as it stands, and takes none of {', '.join(options)}")
    if not isinstance(found, Factor):
        raise PolicyError(f"{place} is {found!r}: use a factor, or a class or function that makes one")
    return found


def _objective(value: Any) -> Objective:
    given = dict(_mapping("an objective", value))
    name = str(given.get("name", "an objective"))
    _check_names(name, given, inspect.signature(Objective).parameters)
    _check_required(name, given, Objective)
    if isinstance(given.get("hook"), str):
        given["hook"] = _imported(given["hook"])
    return Objective(**given)


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise DynPrioError(f'{name} is {value!r}: use a dict such as {{"match": "shop.checkout", "within": 5}}')
    return value


def _imported(place: str) -> Any:
    try:
        return import_symbol(place)
    except Exception as exc:  # whatever the user's module raises
        raise DynPrioError(f"{place} cannot be imported: {exc!r}") from exc


def _check_names(name: str, given: Iterable[str], known: Iterable[str]) -> None:
    for option in given:
        if option not in known:
            raise DynPrioError(f"{name}: {_unknown('option', option, list(known))}")


def _check_required(name: str, given: Mapping[str, Any], make: Callable[..., object]) -> None:
    for parameter in inspect.signature(make).parameters.values():
        if parameter.default is parameter.empty and parameter.name not in given:
            raise DynPrioError(f"{name}: {parameter.name} is missing")


def _unknown(kind: str, name: str, known: Sequence[str]) -> str:
    meant = difflib.get_close_matches(name, known, 1)
    allowed = f"use {', '.join(known)}" if known else "it has none"
    return f"no such {kind} {name!r}; " + (f"did you mean {meant[0]}?" if meant else allowed)
