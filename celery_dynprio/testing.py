"""For tests of your own: tasks to score, and stand-ins that need no broker.

Check a policy of your own by the order it gives::

    def test_checkouts_overtake_reports():
        old_report = pending_task("reports.page", waited=600)
        checkout = pending_task("shop.checkout", weight=9, deadline=5)
        assert ranked(policy, [old_report, checkout]) == [checkout, old_report]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from uuid import uuid4

from celery_dynprio.brokers.memory import MemoryBacklog
from celery_dynprio.models import Context, PendingTask
from celery_dynprio.policies import Policy
from celery_dynprio.policies.ahead import with_pending
from celery_dynprio.ports.lease import Holder
from celery_dynprio.runtimes import Runtimes
from celery_dynprio.stores.memory import MemoryUsage

__all__ = ["NOW", "MemoryBacklog", "MemoryLease", "MemoryUsage", "pending_task", "ranked"]

#: The time at which these tasks are scored, Unix seconds.
NOW = 1_700_000_000.0


def pending_task(
    name: str = "proj.task",
    *,
    waited: float = 0.0,
    weight: float = 1.0,
    deadline: float | None = None,
    key: str | None = None,
    dependents: int = 0,
    now: float = NOW,
) -> PendingTask:
    """Make a task that has waited for ``waited`` seconds and should start ``deadline`` seconds from ``now``."""
    due = None if deadline is None else now + deadline
    return PendingTask(str(uuid4()), name, now - waited, weight, due, key, dependents)


def ranked(
    policy: Policy,
    tasks: Iterable[PendingTask],
    *,
    now: float = NOW,
    runtimes: Mapping[str, float] | None = None,
    use: Mapping[str, float] | None = None,
) -> list[PendingTask]:
    """Return the tasks in the order in which the policy wants them to run; of equal scores the oldest first.

    ``runtimes`` are learned seconds by task name, ``use`` is decayed use in seconds by fairness key.
    """
    learned = runtimes if isinstance(runtimes, Runtimes) else Runtimes(runtimes or {})
    tasks = list(tasks)
    score = policy.bind(with_pending(Context(now, learned, use or {}), tasks, policy))
    return sorted(tasks, key=lambda task: (-score(task), task.published))


class MemoryLease:
    """A lease that is always free, or always taken by somebody else if ``fence`` is None."""

    def __init__(self, fence: str | None = "1") -> None:
        self.fence = fence
        self.released = False

    def acquire(self) -> str | None:
        """Return the fence."""
        return self.fence

    def renew(self) -> None:
        """Do nothing: it never expires."""

    def release(self) -> None:
        """Remember that it was released."""
        self.released = True

    def holder(self) -> Holder | None:
        """Return the holder."""
        return None if self.fence is None or self.released else Holder("testing", "dedicated", 1)
