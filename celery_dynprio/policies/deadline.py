"""How near a task's deadline is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from celery_dynprio.durations import Duration
from celery_dynprio.errors import PolicyError
from celery_dynprio.models import Context, PendingTask
from celery_dynprio.policies.base import BulkScorer, Factor, Scorer, is_number, positive_seconds
from celery_dynprio.runtimes import Runtimes


@dataclass(frozen=True, init=False, repr=False)
class Deadline(Factor):
    """Grows from 0 to 1 while the slack falls from ``horizon`` seconds to none; 0 for a task without a deadline.

    A deadline says when a task should have *started*, and slack is the time until then: earliest deadline first (Liu
    and Layland 1973). With ``finish``, it says when the task should have *ended*, and ``finish`` how sure that is to
    be, above 0 and below 1: slack is then the time left without the runtime that such a part of these tasks does not
    exceed, as learned by name and key (0 while nothing is learned). That is least slack first.

    ``late``, from 0 to 1, is the value of a task without any slack left. Below 1, such tasks make room for those that
    can still be in time. Otherwise, when there is more to do than workers can, each late task makes the next one late
    (the domino effect of earliest deadline first; Locke 1986).
    """

    asks_ahead = False

    horizon: float
    finish: float | None
    late: float

    def __init__(self, horizon: Duration = 60.0, *, finish: float | None = None, late: float = 1.0) -> None:
        object.__setattr__(self, "horizon", positive_seconds("Deadline", "horizon", horizon))
        if finish is not None and not (is_number(finish) and 0 < finish < 1):
            raise PolicyError(f"Deadline(finish={finish!r}): use a number above 0 and below 1, such as 0.9")
        if not (is_number(late) and 0 <= late <= 1):
            raise PolicyError(f"Deadline(late={late!r}): use a number from 0 to 1")
        object.__setattr__(self, "finish", finish)
        object.__setattr__(self, "late", late)

    def bind(self, context: Context) -> Scorer:
        """Return the scorer."""
        now, horizon, late = context.now, self.horizon, self.late
        runtime = _nothing if self.finish is None else _longest(context.runtimes, NormalDist().inv_cdf(self.finish))

        def score(task: PendingTask) -> float:
            due = task.deadline
            if due is None:
                return 0.0
            slack = due - now - runtime(task)
            return late if slack < 0 else max(0.0, 1.0 - slack / horizon)

        def score_all(tasks: Sequence[PendingTask]) -> Sequence[float]:
            return [0.0 if task.deadline is None else score(task) for task in tasks]

        return BulkScorer(score, score_all)

    def __repr__(self) -> str:
        finish = "" if self.finish is None else f", finish={self.finish!r}"
        late = "" if self.late == 1 else f", late={self.late!r}"
        return f"Deadline(horizon={self.horizon!r}{finish}{late})"


def _nothing(task: PendingTask) -> float:  # noqa: ARG001 - as the other one is called
    return 0.0


def _longest(runtimes: Runtimes, z: float) -> Callable[[PendingTask], float]:
    """Return what tells how long a task may take, in seconds, up to a quantile: ``z`` is the normal distribution's."""
    known: dict[tuple[str, str | None], float] = {}

    def seconds(task: PendingTask) -> float:
        kind = task.name, task.key
        found = known.get(kind)
        if found is None:
            estimate = runtimes.expected(task)
            found = known[kind] = 0.0 if estimate is None else estimate.mean * estimate.stretch(z)
        return found

    return seconds
