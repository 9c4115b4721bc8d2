# ruff: noqa: D102, FBT001, FBT002, PLR0917 - as Celery has them
"""What type checkers know of tasks, with or without celery-types. At run time these are Celery's own classes."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Generic, TypedDict

from celery_dynprio.durations import Due

__all__ = ["UNSET", "CallOptions", "P", "R_co", "TypedResult", "TypedSignature", "TypedTask", "Unset"]


class Unset(Enum):
    """Stands for an argument that was not given, where None is a value."""

    UNSET = "not given"


UNSET: Final = Unset.UNSET


class CallOptions(TypedDict, total=False):
    """The option ``dynprio`` of one call; see :func:`~celery_dynprio.dynprio_task`."""

    weight: float
    deadline: Due | None
    key: object


if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery import Task
    from celery.canvas import Signature
    from celery.result import AsyncResult, EagerResult
    from typing_extensions import ParamSpec, Self, TypeVar

    P = ParamSpec("P", default=...)
    R_co = TypeVar("R_co", default=Any, covariant=True)

    class TypedResult(AsyncResult[R_co], Generic[R_co]):
        """Celery's AsyncResult of a task that returns ``R``."""

        @property
        def result(self) -> R_co | Exception: ...
        def get(
            self, timeout: float | None = None, propagate: bool = True, interval: float = 0.5, **options: Any
        ) -> R_co: ...

    class TypedSignature(Signature[R_co], Generic[R_co]):
        """Celery's Signature of a task that returns ``R``; calls may have the option ``dynprio``."""

        def set(self, immutable: bool | None = None, *, dynprio: CallOptions | None = None, **options: Any) -> Self: ...
        def apply_async(
            self,
            args: Sequence[Any] | None = None,
            kwargs: Mapping[str, Any] | None = None,
            *,
            dynprio: CallOptions | None = None,
            **options: Any,
        ) -> TypedResult[R_co]: ...
        def delay(self, *args: Any, **kwargs: Any) -> TypedResult[R_co]: ...
        def __or__(self, other: Signature[Any]) -> TypedSignature[Any]: ...
        def __ror__(self, other: Signature[Any]) -> TypedSignature[Any]: ...

    class TypedTask(Task[P, R_co], Generic[P, R_co]):
        """A task that takes ``P`` and returns ``R``; calls may have the option ``dynprio``."""

        name: str

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
        def delay(self, *args: P.args, **kwargs: P.kwargs) -> TypedResult[R_co]: ...
        def apply_async(
            self,
            args: Sequence[Any] | None = None,
            kwargs: Mapping[str, Any] | None = None,
            task_id: str | None = None,
            producer: Any = None,
            link: Any = None,
            link_error: Any = None,
            shadow: str | None = None,
            *,
            dynprio: CallOptions | None = None,
            **options: Any,
        ) -> TypedResult[R_co]: ...
        def apply(
            self,
            args: Sequence[Any] | None = None,
            kwargs: Mapping[str, Any] | None = None,
            *,
            dynprio: CallOptions | None = None,
            **options: Any,
        ) -> EagerResult[R_co]: ...
        def s(self, *args: Any, **kwargs: Any) -> TypedSignature[R_co]: ...
        def si(self, *args: P.args, **kwargs: P.kwargs) -> TypedSignature[R_co]: ...
        def signature(
            self,
            args: Sequence[Any] | None = None,
            kwargs: Mapping[str, Any] | None = None,
            *,
            dynprio: CallOptions | None = None,
            **options: Any,
        ) -> TypedSignature[R_co]: ...
        def delay_on_commit(self, *args: P.args, **kwargs: P.kwargs) -> None: ...
        def apply_async_on_commit(
            self,
            args: Sequence[Any] | None = None,
            kwargs: Mapping[str, Any] | None = None,
            *,
            dynprio: CallOptions | None = None,
            **options: Any,
        ) -> None: ...

else:
    from types import GenericAlias
    from typing import ParamSpec, TypeVar

    from celery import Task
    from celery.canvas import Signature as TypedSignature
    from celery.result import AsyncResult as TypedResult

    P, R_co = ParamSpec("P"), TypeVar("R_co", covariant=True)

    class TypedTask(Task):
        """Celery's Task; before Celery 5.6, that cannot be subscripted."""

        abstract = True
        __class_getitem__ = classmethod(GenericAlias)
