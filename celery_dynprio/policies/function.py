"""A plain function as a factor."""

from __future__ import annotations

from collections.abc import Callable

from celery_dynprio.errors import PolicyError
from celery_dynprio.models import Context, PendingTask
from celery_dynprio.policies.base import Factor, Scorer


class _Function(Factor):
    def __init__(self, function: Callable[[PendingTask, Context], float]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    @property
    def name(self) -> str:
        """The function's name."""
        return getattr(self._function, "__name__", repr(self._function))

    def bind(self, context: Context) -> Scorer:
        """Return the scorer."""
        function, name = self._function, self.name

        def score(task: PendingTask) -> float:
            value = function(task, context)
            if not 0.0 <= value <= 1.0:
                raise PolicyError(f"factor {name!r} gave {value!r} for task {task.name!r}: return a number from 0 to 1")
            return value

        return score

    def __repr__(self) -> str:
        return self.name


def factor(function: Callable[[PendingTask, Context], float]) -> Factor:
    """Make a factor of a function that takes a pending task and the context and returns a number from 0 to 1.

    The factor is named after the function. If the function returns any other number, scoring that task raises
    :class:`~celery_dynprio.errors.PolicyError`.
    """
    if not callable(function):
        raise PolicyError(f"@factor on {function!r}: use it on a function that takes a task and a context")
    return _Function(function)
