"""Fairness keys: found in the arguments of a call, by a parameter's name, a path into it, or the user's function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celery_dynprio.errors import OptionError
from celery_dynprio.message import MAX_KEY

#: Finds the fairness key in the arguments of a call.
KeyFinder = Callable[[Sequence[Any], Mapping[str, Any]], object]


def find_key(task: str, key: KeyFinder, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    """Return the key of a call; :class:`~celery_dynprio.errors.OptionError` if it has none that can be used."""
    try:
        if type(key) is _Path and key.position is not None and not key.path and key.position < len(args):
            value = args[key.position]  # as it finds itself, sooner
        else:
            value = key(args, kwargs)
    except Exception as exc:  # the user's code, or the user's objects, may raise anything
        raise OptionError(task, "key", key, f"failed for the arguments of this call: {exc!r}") from exc
    if type(value) is str and 0 < len(value) <= MAX_KEY:
        return value
    return key_text(task, value)


def key_text(task: str, value: object) -> str | None:
    """Return the text of a key, None for none; :class:`~celery_dynprio.errors.OptionError` if it cannot be a key."""
    try:
        text = "" if value is None else str(value)
    except Exception as exc:  # as in find_key
        kind = type(value).__name__
        raise OptionError(task, "key", kind, f"an object of this type is no text: {exc!r}") from exc
    if len(text) > MAX_KEY:
        raise OptionError(task, "key", text, f"a key has at most {MAX_KEY} characters")
    return text or None


def parameters_of(fun: Callable[..., Any], *, bound: bool) -> Sequence[inspect.Parameter] | None:
    """What a call of the task may pass, or None if Python cannot tell."""
    try:
        parameters = list(inspect.signature(fun).parameters.values())
    except (TypeError, ValueError):  # some functions in C
        return None
    return parameters[1:] if bound else parameters


def key_finder(
    task: str, key: str | Callable[..., object], parameters: Sequence[inspect.Parameter] | None
) -> KeyFinder:
    """Return what finds a declared key, for a function with these parameters; None if they are not known."""
    if not isinstance(key, str):
        return _Called(key)
    name, *path = key.split(".")
    if parameters is None:
        return _Path(key, name, None, None, tuple(path))
    kinds = {parameter.kind for parameter in parameters}
    position, default = None, None
    for index, parameter in enumerate(parameters):
        if parameter.name == name and parameter.kind not in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            default = None if parameter.default is parameter.empty else parameter.default
            position = None if parameter.kind is parameter.KEYWORD_ONLY else index
            break
    else:
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            names = ", ".join(parameter.name for parameter in parameters) or "none"
            raise OptionError(task, "key", key, f"the task has no parameter {name!r}; it has {names}")
    return _Path(key, name, position, default, tuple(path))


@dataclass(frozen=True, slots=True)
class _Called:
    """A key found by the user's function."""

    function: Callable[..., object]

    def __call__(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> object:
        return self.function(*args, **kwargs)


@dataclass(frozen=True, slots=True, repr=False)
class _Path:
    """A key found in one of the arguments."""

    key: str
    parameter: str
    position: int | None
    default: object
    path: tuple[str, ...]

    def __call__(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> object:
        value: Any
        if self.position is not None and self.position < len(args):
            value = args[self.position]
        else:
            value = kwargs.get(self.parameter, self.default)
        for step in self.path:
            if value is None:
                return None
            value = value[step] if isinstance(value, Mapping) else getattr(value, step)
        return value

    def __repr__(self) -> str:
        return repr(self.key)
