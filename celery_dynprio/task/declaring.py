"""How tasks are declared: the decorator ``dynprio_task`` and the base class ``DynPrioTask``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, Literal, TypeVar, overload

from celery import shared_task
from celery._state import connect_on_app_finalize

from celery_dynprio.durations import Duration
from celery_dynprio.hosting.default_app import warn_of_fallback
from celery_dynprio.hosting.orm import on_commit
from celery_dynprio.task.keys import parameters_of
from celery_dynprio.task.options import TaskOptions, check_spelling, options_of
from celery_dynprio.typed import P, R_co, TypedTask

if TYPE_CHECKING:
    from celery import Celery

T = TypeVar("T")


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
        check_spelling(name, options)
        merged = {**(getattr(options.get("base"), "dynprio", None) or {}), **declared}
        TaskOptions.read(name, merged, parameters_of(fun, bound=bool(options.get("bind"))))
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
