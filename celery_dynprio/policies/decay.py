"""How learned runtimes and use decay: with a half-life, so that recent runs count most.

This is ``PriorityDecayHalfLife`` of Slurm's multifactor plugin.
"""

from __future__ import annotations

from typing import NamedTuple

from celery_dynprio.runtimes import Sums


class DecayedSums(NamedTuple):
    """Runs, their seconds and the squares of these, all decayed, as of ``at`` (Unix seconds)."""

    sums: Sums
    at: float

    @property
    def mean(self) -> float:
        """The mean of the runs in seconds."""
        return self.sums.seconds / self.sums.runs

    def seconds_at(self, now: float, half_life: float) -> float:
        """Return what is left of the seconds ``now`` (Unix seconds); ``half_life`` is in seconds."""
        return self.sums.seconds * self._rest(now, half_life)

    def plus(self, seconds: float, now: float, half_life: float) -> DecayedSums:
        """Return the sums with one more run, as of ``now`` (Unix seconds); ``half_life`` is in seconds."""
        rest = self._rest(now, half_life)
        runs, total, squares = self.sums
        return DecayedSums(Sums(runs * rest + 1, total * rest + seconds, squares * rest + seconds**2), now)

    def _rest(self, now: float, half_life: float) -> float:
        return float(2.0 ** (min(self.at - now, 0.0) / half_life))
