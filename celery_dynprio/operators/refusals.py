"""A broker that refuses what is said to the workers does not keep operators from all else."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from celery_dynprio.errors import BrokerRefusedError
from celery_dynprio.ports.broker import BrokerErrors

T = TypeVar("T")

logger = logging.getLogger("celery_dynprio.backlogs.trouble")


def unless_refused(errors: BrokerErrors, talk: Callable[[], T], otherwise: T) -> T:
    """Return what ``talk``, which talks to the workers, returns; ``otherwise``, with a warning, if that is refused.

    What is said to workers is written to the broker. One that is out of memory refuses it, and so does a replica, while
    it still answers what is only read from it.
    """
    try:
        return talk()
    except errors.any as exc:
        refusal = errors.explain(exc)
        if not isinstance(refusal, BrokerRefusedError):
            raise
        logger.warning("workers cannot be reached: %s", refusal)
        return otherwise
