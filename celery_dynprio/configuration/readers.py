"""Read the values of settings as people write them: objects, plain data, and texts from the environment.

A reader is called with the name and the value of a setting. It returns the value in the form that the add-on works
with, and raises :class:`~celery_dynprio.errors.SettingError` for one that is not allowed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from celery_dynprio.configuration.declarations import objectives_of, policy_of
from celery_dynprio.durations import EXAMPLES, seconds
from celery_dynprio.errors import DynPrioError, SettingError
from celery_dynprio.hosting.loading import import_symbol
from celery_dynprio.objectives import Objective
from celery_dynprio.policies import Factor, Policy

MAX_PORT: Final = 65_535

#: Words for switches in the environment, as in Celery's own strtobool.
_WORDS: Final = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}

#: Texts that stand for None.
_NOTHING: Final = frozenset({"", "none"})


def read_queues(setting: str, value: Any) -> tuple[str, ...]:
    """Read names of queues: a list, or a text with commas."""
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple, set, frozenset)) or not names:
        raise SettingError(setting, value, 'use a list of queue names, such as ["celery"], or "celery,mails"')
    for name in names:
        if not isinstance(name, str) or not name:
            raise SettingError(setting, value, f"{name!r} is not the name of a queue")
    return tuple(dict.fromkeys(sorted(names) if isinstance(names, (set, frozenset)) else names))


def read_policy(setting: str, value: Any) -> Policy:
    """Read a policy: itself, a factor, plain data, JSON, or the place of any of these, "module:attribute"."""
    found = _declared(setting, value)
    if isinstance(found, (Mapping, list, tuple)):
        try:
            found = policy_of(found)
        except DynPrioError as exc:
            raise SettingError(setting, value, str(exc)) from exc
    if isinstance(found, Factor):
        found = 1 * found
    if not isinstance(found, Policy):
        allowed = (
            'use a policy such as 2 * Weight() + Age(saturation=300), plain data such as {"weight": 2, "age": 1}, or '
            'the place of either: "module:attribute"'
        )
        raise SettingError(setting, value, allowed)
    return found


def read_objectives(setting: str, value: Any) -> tuple[Objective, ...]:
    """Read objectives: a list, plain data, JSON, or the place of any of these, "module:attribute"."""
    found = () if _is_nothing(value) else _declared(setting, value)
    if not isinstance(found, (Mapping, list, tuple)):
        allowed = (
            'use a list such as [Objective("checkouts", match="shop.checkout", within=5)], plain data such as '
            '[{"name": "checkouts", "match": "shop.checkout", "within": 5}], or the place of either: "module:attribute"'
        )
        raise SettingError(setting, value, allowed)
    try:
        objectives = objectives_of(found)
    except DynPrioError as exc:
        raise SettingError(setting, value, str(exc)) from exc
    if len({each.name for each in objectives}) < len(objectives):
        raise SettingError(setting, value, "give each objective a name of its own")
    return objectives


def _declared(setting: str, value: Any) -> Any:
    """Return what a text means, JSON or a "module:attribute"; anything else stays as it is."""
    if not isinstance(value, str):
        return value
    if value.lstrip()[:1] in {"{", "["}:
        try:
            return json.loads(value)
        except ValueError as exc:
            raise SettingError(setting, value, f"is no JSON: {exc}") from exc
    try:
        return import_symbol(value)
    except Exception as exc:  # whatever the user's module raises
        raise SettingError(
            setting, value, f'cannot be imported as "module:attribute": {type(exc).__name__}: {exc}'
        ) from exc


def read_seconds(setting: str, value: Any) -> float:
    """Read a duration above 0."""
    found = seconds(value)
    if found is None or found <= 0:
        raise SettingError(setting, value, f"use {EXAMPLES}, above 0")
    return float(found)


def read_fraction(setting: str, value: Any) -> float:
    """Read a number from 0 to 1."""
    number = _number(value)
    if type(number) not in {int, float} or not 0 <= number <= 1:
        raise SettingError(setting, value, "use a number from 0 to 1")
    return float(number)


def read_count(setting: str, value: Any) -> int:
    """Read a whole number, 1 or above."""
    number = _number(value)
    if type(number) is not int or number < 1:
        raise SettingError(setting, value, "use a whole number, 1 or above")
    return number


def read_switch(setting: str, value: Any) -> bool:
    """Read True or False, or a word for it."""
    found = _WORDS.get(value.strip().lower()) if isinstance(value, str) else value
    if type(found) is not bool:
        raise SettingError(setting, value, "use True or False")
    return found


def read_log_format(setting: str, value: Any) -> str | None:
    """Read "text", "json" or None."""
    if _is_nothing(value):
        return None
    if isinstance(value, str) and value in {"text", "json"}:
        return value
    raise SettingError(setting, value, 'use "text", "json" or None')


def read_path(setting: str, value: Any) -> str | None:
    """Read the path of a recording, or None."""
    if _is_nothing(value):
        return None
    path = str(value) if isinstance(value, (str, Path)) else ""
    if not path.endswith((".jsonl", ".jsonl.gz")):
        raise SettingError(setting, value, 'use the path of a file that ends in ".jsonl.gz" or ".jsonl", or None')
    return path


def read_secret(setting: str, value: Any) -> str | None:
    """Read a secret text, or None."""
    if _is_nothing(value):
        return None
    if not isinstance(value, str):
        raise SettingError(setting, value, "use a text that nobody can guess, or None")
    return value


def read_port(setting: str, value: Any) -> int | None:
    """Read a TCP port, or None."""
    if _is_nothing(value):
        return None
    number = _number(value)
    if type(number) is int and 0 < number <= MAX_PORT:
        return number
    raise SettingError(setting, value, f"use a port, a whole number from 1 to {MAX_PORT}, or None")


def read_host(setting: str, value: Any) -> str:
    """Read an address to listen on."""
    if not isinstance(value, str) or not value:
        raise SettingError(setting, value, 'use an address, such as "127.0.0.1", or "0.0.0.0" for all of this machine')
    return value


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.strip().lower() in _NOTHING)


def _number(value: Any) -> Any:
    """Return the number that a text stands for; anything else stays as it is."""
    if isinstance(value, str):
        for kind in (int, float):
            try:
                return kind(value)
            except ValueError:
                continue
    return value
