"""The options of tasks and calls: read, checked, and made fields of the message header."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final
from weakref import WeakKeyDictionary

from celery import Task

from celery_dynprio.durations import EXAMPLES, seconds, timestamp
from celery_dynprio.errors import OptionError
from celery_dynprio.message import MAX_WEIGHT
from celery_dynprio.task.keys import KeyFinder, find_key, key_finder, key_text, parameters_of

OPTIONS: Final = ("deadline", "key", "weight")

#: Names that people give where they are not ours to read.
_OURS: Final = (*OPTIONS, "level")

#: With what most tasks are published: Celery's own options, none of which is nearly one of ours.
_OPTIONS_OF_CELERY: Final = frozenset(
    {
        "compression",
        "delivery_mode",
        "exchange",
        "headers",
        "immediate",
        "mandatory",
        "origin",
        "priority",
        "queue",
        "routing_key",
        "serializer",
    }
)

_PIN: Final = "to pin the task to a level, use Celery's own priority="

#: Is given what is wrong with an option; it raises that, or lets the call go on without.
Doubt = Callable[[OptionError], object]


def refuse(error: OptionError) -> None:
    """Raise it: what is wrong in any call, or in this one where calls are checked strictly."""
    raise error


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """What a task declares; None where it declares nothing."""

    #: Business importance, 0 to 10.
    weight: float | None = None
    #: Seconds from publishing by which the task should have started.
    deadline: float | None = None
    key: KeyFinder | None = None

    @classmethod
    def read(cls, task: str, declared: Any, parameters: Sequence[inspect.Parameter] | None) -> TaskOptions:
        """Read a declaration; ``parameters`` are those of the task's function, None if they are not known."""
        for option, value in _items(task, declared):
            _check(option)(task, option, value)
        key = declared.get("key")
        deadline = declared.get("deadline")
        return cls(
            declared.get("weight"),
            None if deadline is None else _deadline(task, "deadline", deadline),
            None if key is None else key_finder(task, key, parameters),
        )

    def fields(
        self, task: str, args: Sequence[Any], kwargs: Mapping[str, Any], now: float, doubt: Doubt = refuse
    ) -> dict[str, Any]:
        """Return the fields of the message header that a call with these arguments gets at ``now`` (Unix seconds).

        ``doubt`` is given what is wrong with the key that they lead to; if it returns, the call has no key.
        """
        fields: dict[str, Any] = {}
        if self.weight is not None:
            fields["w"] = self.weight
        if self.deadline is not None:
            fields["due"] = now + self.deadline
        if self.key is not None:
            fields["key"] = None
            try:
                fields["key"] = find_key(task, self.key, args, kwargs)
            except OptionError as exc:
                doubt(exc)
        return fields


#: What was read of each class; kept here, because a task is the user's.
_read: WeakKeyDictionary[type, TaskOptions] = WeakKeyDictionary()


def options_of(task: Any) -> TaskOptions:
    """Return what a task (or its class) declares in ``dynprio``; read once a class."""
    cls: Any = task if isinstance(task, type) else task.__class__  # not type(): it may be a proxy
    options = _read.get(cls)
    if options is None:
        _check_attributes(cls)
        declared = getattr(cls, "dynprio", None) or {}
        run = inspect.getattr_static(cls, "run")
        parameters = parameters_of(cls.run, bound=not isinstance(run, staticmethod))
        options = _read[cls] = TaskOptions.read(str(cls.name), declared, parameters)
    return options


def call_fields(task: str, given: Any, now: float, doubt: Doubt = refuse, wrong: Doubt = refuse) -> dict[str, Any]:
    """Read the ``dynprio`` option of one call at ``now`` (Unix seconds) into fields of the message header.

    A None says that the call has no deadline or no key, whatever is declared or inherited. ``doubt`` is given what is
    wrong with the key, ``wrong`` what else is: an option for which they return is left out.
    """
    fields: dict[str, Any] = {}
    for option, value in _items(task, given, wrong):
        try:
            fields |= _call_field(task, option, value, now)
        except OptionError as exc:
            (doubt if option == "key" else wrong)(exc)
    return fields


def _call_field(task: str, option: str, value: Any, now: float) -> dict[str, Any]:
    if option == "key":
        return {"key": key_text(task, value)}
    if option == "deadline":
        return {"due": _due(task, value, now)}
    return {"w": _check(option)(task, option, value)}


def _items(task: str, given: Any, wrong: Doubt = refuse) -> Iterable[tuple[str, Any]]:
    if isinstance(given, Mapping):
        return given.items()
    wrong(OptionError(task, "dynprio", given, 'use a dict such as {"weight": 5}'))
    return ()


def _weight(task: str, option: str, value: Any) -> float:
    if type(value) is bool or not isinstance(value, (int, float)) or not 0 <= value <= MAX_WEIGHT:
        raise OptionError(task, option, value, f"use a number from 0 to {MAX_WEIGHT:g}")
    return value


def _deadline(task: str, option: str, value: Any) -> float:
    found = seconds(value)
    if found is None or found <= 0:
        raise OptionError(task, option, value, f"use {EXAMPLES}, above 0")
    return found


def _due(task: str, value: Any, now: float) -> float | None:
    """The Unix time of a deadline that is so far from now, or a moment, and perhaps past; None for none."""
    if value is None:
        return None
    if not isinstance(value, datetime):
        found = seconds(value)
        if found is None:
            raise OptionError(task, "deadline", value, f"use {EXAMPLES}, or a datetime")
        return max(now + found, 0.0)
    due = timestamp(value)
    if due is None:
        raise OptionError(task, "deadline", value, "give it a time zone, as datetime.now(timezone.utc) has one")
    return due


def _declared_key(task: str, option: str, value: Any) -> None:
    if not callable(value) and (not isinstance(value, str) or not all(value.split("."))):
        raise OptionError(task, option, value, "use the name of a parameter, a dotted path into one, or a callable")


def _unknown(task: str, option: str, value: Any) -> Any:
    meant = difflib.get_close_matches(str(option), OPTIONS, 1)
    if option in {"priority", "level"}:
        hint = _PIN
    else:
        hint = f"did you mean {meant[0]}?" if meant else f"use {', '.join(OPTIONS)}"
    raise OptionError(task, str(option), value, f"no such option; {hint}")


Check = Callable[[str, str, Any], Any]

_CHECKS: Final[Mapping[str, Check]] = {"weight": _weight, "deadline": _deadline, "key": _declared_key}


def _check(option: str) -> Check:
    return _CHECKS.get(option, _unknown)


def check_spelling(task: str, options: Mapping[str, Any]) -> None:
    """Refuse what is nearly one of our options: Celery would make it an attribute of the task, without a word."""
    base = options.get("base") or Task
    for option, value in options.items():
        if not hasattr(base, option) and _meant(option):
            _unknown(task, option, value)


def _check_attributes(cls: Any) -> None:
    """Refuse our options given to ``@app.task``, which made attributes of them that no base class knows."""
    if "_decorated" not in vars(cls):  # as Celery.task leaves it: attributes of a class of the user's own are theirs
        return
    for option in _OURS:
        if option in vars(cls) and not any(option in vars(base) for base in cls.__mro__[1:]):
            value = vars(cls)[option]
            raise OptionError(str(cls.name), option, value, f"not an option of @app.task; {_remedy(option, value)}")


def check_call(task: str, options: Mapping[str, Any]) -> None:
    """Refuse our options given as Celery's: they would travel in the message's properties, without a word.

    ``options`` are all of a call. Raises :class:`~celery_dynprio.errors.OptionError`.
    """
    if _OPTIONS_OF_CELERY.issuperset(options):  # the usual case
        return
    for option, value in options.items():
        meant = _meant(option)
        if meant is not None:
            raise OptionError(task, option, value, f"not an option of a call; {_remedy(meant, value)}")


@lru_cache(maxsize=1000)
def _meant(option: str) -> str | None:
    """Which of our options this is, perhaps misspelled."""
    return next(iter(difflib.get_close_matches(option, _OURS, 1, 0.8)), None)


def _remedy(option: str, value: Any) -> str:
    if option == "level":
        return _PIN
    return f"use dynprio={{{option!r}: {value!r}}}"
