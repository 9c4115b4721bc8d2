"""Factors say why a task is urgent; a policy weighs them into one score and can explain it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TypeAlias

from celery_dynprio.errors import PolicyError
from celery_dynprio.models import Context, Contribution, PendingTask

#: What a factor or a policy becomes for one tick: a function from a task to a number in [0, 1].
Scorer: TypeAlias = Callable[[PendingTask], float]


class Factor(ABC):
    """One reason for urgency, in [0, 1]; 1 is most urgent."""

    @property
    def name(self) -> str:
        """What explanations and metrics call this factor."""
        return type(self).__name__

    @abstractmethod
    def bind(self, context: Context) -> Scorer:
        """Return the function that scores tasks in this context; called once a tick."""

    def __call__(self, task: PendingTask, context: Context) -> float:
        """Score one task; for many in one context, call :meth:`bind` once."""
        return self.bind(context)(task)

    def __rmul__(self, weight: float) -> Policy:
        return Policy(((weight, self),))

    def __add__(self, other: Factor | Policy) -> Policy:
        return 1 * self + other
