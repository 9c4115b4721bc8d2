"""How little worker time a task's key (tenant, customer, user) has used lately."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from celery_dynprio.models import Context, PendingTask
from celery_dynprio.policies.base import Factor, Scorer, require_positive

#: The value of a key that uses exactly its share.
EXACT_SHARE: Final = 0.5


@dataclass(frozen=True)
class FairShare(Factor):
    """Slurm's classic fair share, ``2 ** (-(U / S) / damping)``.

    U is the key's part of all decayed use, S is the share of each key, 1 / number of keys. So a key that used nothing
    gets 1, one that used its share gets 0.5, and one that used far more gets nearly 0. An unknown key counts as unused.
    Where no use is known at all (in a producer, or at first), every key gets 0.5. All tasks without a key count as one
    key. ``damping`` (Slurm's FairShareDampeningFactor) above 1 distinguishes heavy users if there are very many keys.
    """

    damping: float = 1.0

    def __post_init__(self) -> None:
        require_positive("FairShare", "damping", self.damping)

    def bind(self, context: Context) -> Scorer:
        """Return the scorer."""
        total = sum(context.use.values())
        if total <= 0.0:
            return lambda _: EXACT_SHARE
        rate = -len(context.use) / total / self.damping
        value = {key: math.pow(2.0, rate * use) for key, use in context.use.items()}.get

        def score(task: PendingTask) -> float:
            return value(task.key or "", 1.0)

        return score
