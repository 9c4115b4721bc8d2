"""How little worker time a task's key (tenant, customer, user) has used lately."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from celery_dynprio.durations import Duration
from celery_dynprio.models import Context, PendingTask
from celery_dynprio.policies.base import Factor, Scorer, positive_seconds, require_positive

#: The value of a key that uses exactly its share.
EXACT_SHARE: Final = 0.5


@dataclass(frozen=True, init=False)
class FairShare(Factor):
    """Slurm's classic fair share, ``2 ** (-(U / S) / damping)``, for keys that each used ``prior`` seconds more.

    U is the key's part of all decayed use; S is the share of each key, 1 / number of keys. A key that used exactly its
    share gets 0.5, and one that used far more gets nearly 0. One that used nothing gets the more the more the others
    used, up to nearly 1; so does an unknown key. Where no use is known at all (in a producer, or at first), every key
    gets 0.5. All tasks without a key count as one key.

    ``prior`` (seconds of worker time, or as in :data:`~celery_dynprio.durations.EXAMPLES`) is the use that is ignored:
    keys that differ by far less keep the order in which their tasks came. Without it all tasks of a new tenant,
    however long, would go before those of one that used a second. ``damping`` (Slurm's FairShareDampeningFactor) above
    1 tells heavy users apart if there are very many keys.
    """

    damping: float
    prior: float

    def __init__(self, damping: float = 1.0, *, prior: Duration = 60.0) -> None:
        require_positive("FairShare", "damping", damping)
        object.__setattr__(self, "damping", damping)
        object.__setattr__(self, "prior", positive_seconds("FairShare", "prior", prior))

    def bind(self, context: Context) -> Scorer:
        """Return the scorer."""
        total = sum(context.use.values())
        if total <= 0.0:
            return lambda _: EXACT_SHARE
        rate = -1.0 / (total / len(context.use) + self.prior) / self.damping
        value = {key: math.pow(2.0, rate * (use + self.prior)) for key, use in context.use.items()}.get
        unused = math.pow(2.0, rate * self.prior)

        def score(task: PendingTask) -> float:
            return value(task.key or "", unused)

        return score
