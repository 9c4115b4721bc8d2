"""A policy that somebody composes in the browser: numbers, and factors that there are already. Nothing is evaluated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

from celery_dynprio.errors import ArgumentError, PolicyError
from celery_dynprio.policies import Age, Deadline, Dependents, Factor, FairShare, Policy, ShortestFirst, Weight
from celery_dynprio.policies.base import is_number

#: The classes of the factors that can be added: dataclasses, whose fields are numbers, as far as the page is concerned.
KNOWN: Final[Mapping[str, Any]] = {
    each.__name__: each for each in (Age, Deadline, Dependents, FairShare, ShortestFirst, Weight)
}

#: The most terms, and the longest text that they are sent as (characters).
MOST_TERMS: Final = 20
MOST_TEXT: Final = 4_000

_ALLOWED: Final = "a JSON list of terms with a weight, and a known factor with numbers or the place of a term in force"


def policy_objects(policy: Policy) -> dict[str, Any]:
    """The terms in force, and the factors that are not among them, as :func:`read_policy` takes them."""
    terms = [
        {
            "term": place,
            "weight": weight,
            "factor": factor.name,
            "parameters": _parameters(factor),
            "repr": repr(factor),
        }
        for place, (weight, factor) in enumerate(policy.terms)
    ]
    used = {type(factor) for _, factor in policy.terms}
    others = [
        {"factor": name, "weight": 0.0, "parameters": _parameters(kind())}
        for name, kind in KNOWN.items()
        if kind not in used
    ]
    return {"terms": [*terms, *others]}


def read_policy(text: str, own: Policy) -> Policy:
    """Read a policy from the JSON that the page sends; :class:`~celery_dynprio.errors.ArgumentError` if it is none.

    Each term has a ``weight``, and either ``factor``, the name of one in :data:`KNOWN`, with its ``parameters``, or
    ``term``, the place of a term of the policy in force, ``own``, whose factor is taken as it is. A weight of 0 leaves
    the term out.
    """
    if len(text) > MOST_TEXT:
        raise ArgumentError("terms", text[:20], f"use {MOST_TEXT} characters at most")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not 0 < len(found) <= MOST_TERMS:
        raise ArgumentError("terms", text[:20], _ALLOWED)
    terms = [_term(each, own) for each in found]
    try:
        return Policy(tuple((weight, factor) for weight, factor in terms if weight > 0))
    except PolicyError as exc:
        raise ArgumentError("terms", text[:20], f"{exc}; give at least one factor a weight above 0") from exc


def _term(given: object, own: Policy) -> tuple[float, Factor]:
    if not isinstance(given, dict) or not is_number(given.get("weight")) or given["weight"] < 0:
        raise ArgumentError("terms", given, _ALLOWED)
    place = given.get("term")
    if given.keys() == {"weight", "term"} and type(place) is int and 0 <= place < len(own.terms):
        return given["weight"], own.terms[place][1]
    if given.keys() == {"weight", "factor", "parameters"}:
        return given["weight"], _factor(given["factor"], given["parameters"])
    raise ArgumentError("terms", given, _ALLOWED)


def _factor(name: object, parameters: object) -> Factor:
    kind = KNOWN.get(name) if isinstance(name, str) else None
    if kind is None or not isinstance(parameters, dict):
        raise ArgumentError("terms", name, f"use {', '.join(KNOWN)}")
    known = [each.name for each in fields(kind)]
    if not all(each in known and is_number(value) for each, value in parameters.items()):
        raise ArgumentError("terms", name, f"its parameters are {', '.join(known) or 'none'}, all of them numbers")
    try:
        return kind(**parameters)  # type: ignore[no-any-return]
    except PolicyError as exc:
        raise ArgumentError("terms", name, str(exc)) from exc


def _parameters(factor: Any) -> dict[str, float] | None:
    """The numbers that make this factor; None if it is none of :data:`KNOWN`, or takes more than numbers."""
    if type(factor) not in KNOWN.values():
        return None
    found = {each.name: getattr(factor, each.name) for each in fields(factor)}
    given = {name: value for name, value in found.items() if value is not None}
    return given if all(map(is_number, given.values())) else None
