"""Scores tasks for operators: a policy that fails spoils no view and no operation."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from celery_dynprio.engine.scores import Scores
from celery_dynprio.models import Context, Contribution, PendingTask
from celery_dynprio.policies.base import Policy, Scorer
from celery_dynprio.policies.fair_share import Account, account

logger = logging.getLogger("celery_dynprio.views")


def scorer(policy: Policy, context: Context) -> Scorer:
    """Return the policy as a function of the task; a task that it cannot score gets a score in the middle."""
    return Scores(policy, _unscored).bind(context)


def contributions(policy: Policy, task: PendingTask, context: Context) -> Sequence[Contribution]:
    """Return what each factor adds to a task's score now; nothing for a pinned task, which no policy moves."""
    return Scores(policy, _unexplained).explain(task, context)


def fair_share(policy: Policy, task: PendingTask, context: Context) -> Account | None:
    """Return what fair share counts for a task; None if the policy has no fair share, or fails."""
    try:
        return account(policy, task, context)
    except Exception as exc:  # noqa: BLE001 - shares may come from the user's code, which may raise anything
        _unexplained(exc)
        return None


def _unscored(problem: object) -> None:
    logger.warning("the policy failed, what it could not score counts as in the middle: %r", problem)


def _unexplained(problem: object) -> None:
    logger.warning("the policy failed: %r", problem)
