"""What a task declares, what a call asks for, and ``dynprio_task``, the decorator for it."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, Final, Literal, TypeVar, overload
from weakref import WeakKeyDictionary

from celery import Task, shared_task
from celery._state import connect_on_app_finalize

from celery_dynprio.durations import EXAMPLES, Duration, seconds, timestamp
from celery_dynprio.errors import OptionError
from celery_dynprio.hosting.default_app import warn_of_fallback
from celery_dynprio.hosting.orm import on_commit
from celery_dynprio.message import MAX_KEY, MAX_WEIGHT
from celery_dynprio.typed import P, R_co, TypedTask

if TYPE_CHECKING:
    from celery import Celery

T = TypeVar("T")

OPTIONS: Final = ("deadline", "key", "weight")

#: Names that people give where they are not ours to read.
_OURS: Final = (*OPTIONS, "level")

_PIN: Final = "to pin the task to a level, use Celery's own priority="

_MISSING: Final = object()

#: Is given what is wrong with an option; it raises that, or lets the call go on without.
Doubt = Callable[[OptionError], object]

#: Finds the fairness key in the arguments of a call.
KeyFinder = Callable[[Sequence[Any], Mapping[str, Any]], object]


def refuse(error: OptionError) -> None:
    """Raise it: what is wrong in any call, or in this one where calls are checked strictly."""
    raise error


@overload
def dynprio_task(
    fun: Callable[P, R_co],
    /,
    *,
    app: Celery | None = None,
    weight: float | None = None,
    deadline: Duration | None = None,
    key: str | Callable[..., object] | None = None,
    **options: Any,
) -> TypedTask[P, R_co]: ...
@overload
def dynprio_task(
    *,
    app: Celery | None = None,
    weight: float | None = None,
    deadline: Duration | None = None,
    key: str | Callable[..., object] | None = None,
    bind: Literal[False] = False,
    base: None = None,
    **options: Any,
) -> Callable[[Callable[P, R_co]], TypedTask[P, R_co]]: ...
@overload
def dynprio_task(
    *,
    app: Celery | None = None,
    weight: float | None = None,
    deadline: Duration | None = None,
    key: str | Callable[..., object] | None = None,
    bind: Literal[True],
    base: None = None,
    **options: Any,
) -> Callable[[Callable[Concatenate[Any, P], R_co]], TypedTask[P, R_co]]: ...
@overload
def dynprio_task(
    *,
    app: Celery | None = None,
    weight: float | None = None,
    deadline: Duration | None = None,
    key: str | Callable[..., object] | None = None,
    bind: bool = False,
    base: type[T],
    **options: Any,
) -> Callable[[Callable[..., Any]], T]: ...
def dynprio_task(
    fun: Callable[..., Any] | None = None,
    /,
    *,
    app: Celery | None = None,
    weight: float | None = None,
    deadline: Duration | None = None,
    key: str | Callable[..., object] | None = None,
    **options: Any,
) -> Any:
    """Declare a task, bare or with options, like :func:`celery.shared_task` (with ``app``: like ``app.task``).

    Args:
        fun: The function, when used bare.
        app: The app that the task belongs to. Without it, every app has the task, and a call goes to the current app:
            in the thread that created an app the last one created there, elsewhere the default one, which is the first
            with a :class:`~celery_dynprio.DynPrio` unless ``app.set_default()`` was called. With several apps in a
            process, name it.
        weight: Business importance, 0 to 10; 1 if not given.
        deadline: How long after publishing the task should have started: seconds, a timedelta, or a text such as "5m".
        key: Whose work it is: the name of a parameter, a dotted path into one (attributes or items of mappings), or a
            callable that is given the task's arguments. None on the way means that the call has no key.
        options: Any option of ``@app.task``.

    Raises:
        OptionError: At the declaration, naming the task and the option.
    """
    given = {"weight": weight, "deadline": deadline, "key": key}
    declared = {option: value for option, value in given.items() if value is not None}

    def declare(fun: Callable[..., Any]) -> Any:
        name = options.get("name") or f"{fun.__module__}.{fun.__name__}"
        _check_spelling(name, options)
        merged = {**(getattr(options.get("base"), "dynprio", None) or {}), **declared}
        TaskOptions.read(name, merged, _parameters(fun, bound=bool(options.get("bind"))))
        if app is None:
            connect_on_app_finalize(warn_of_fallback)  # of many tasks once
        make = shared_task if app is None else app.task
        return make(**options, dynprio=merged)(fun)

    return declare if fun is None else declare(fun)


class DynPrioTask(TypedTask[P, R_co]):
    """Base of class-based tasks: set ``name`` and ``dynprio``, write ``run``, and register it with the app.

    ``DynPrioTask[[int], str]`` tells type checkers what ``run`` takes and returns.
    Wrong options fail when the task is registered, with :class:`~celery_dynprio.errors.OptionError`.
    """

    abstract = True

    #: Any of weight, deadline and key, as in :func:`dynprio_task`.
    dynprio: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def on_bound(cls, app: Celery) -> None:
        """Check the options; called by Celery when the task is registered with an app."""
        super().on_bound(app)
        options_of(cls)

    # As in celery.contrib.django.task.DjangoTask, which is the base of other tasks in Django, but not of this class.

    def delay_on_commit(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """In Django: ``delay`` once the present transaction is committed, at once if there is none."""
        on_commit(partial(self.delay, *args, **kwargs))

    def apply_async_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """In Django: ``apply_async`` once the present transaction is committed, at once if there is none."""
        on_commit(partial(self.apply_async, *args, **kwargs))


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
            None if key is None else _finder(task, key, parameters),
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
                fields["key"] = _found_key(task, self.key, args, kwargs)
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
        parameters = _parameters(cls.run, bound=not isinstance(run, staticmethod))
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
        return {"key": _key_text(task, value)}
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


def _check_spelling(task: str, options: Mapping[str, Any]) -> None:
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


def _found_key(task: str, key: KeyFinder, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    try:
        value = key(args, kwargs)
    except Exception as exc:  # the user's code, or the user's objects, may raise anything
        raise OptionError(task, "key", key, f"failed for the arguments of this call: {exc!r}") from exc
    return _key_text(task, value)


def _key_text(task: str, value: object) -> str | None:
    try:
        text = "" if value is None else str(value)
    except Exception as exc:  # as in _found_key
        kind = type(value).__name__
        raise OptionError(task, "key", kind, f"an object of this type is no text: {exc!r}") from exc
    if len(text) > MAX_KEY:
        raise OptionError(task, "key", text, f"a key has at most {MAX_KEY} characters")
    return text or None


def _parameters(fun: Callable[..., Any], *, bound: bool) -> Sequence[inspect.Parameter] | None:
    """What a call of the task may pass, or None if Python cannot tell."""
    try:
        parameters = list(inspect.signature(fun).parameters.values())
    except (TypeError, ValueError):  # some functions in C
        return None
    return parameters[1:] if bound else parameters


def _finder(task: str, key: str | Callable[..., object], parameters: Sequence[inspect.Parameter] | None) -> KeyFinder:
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
