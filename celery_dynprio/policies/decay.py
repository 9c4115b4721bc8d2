"""How learned runtimes and use decay: with a half-life, so that recent runs count most.

This is ``PriorityDecayHalfLife`` of Slurm's multifactor plugin.
"""

from __future__ import annotations

from typing import NamedTuple


class DecayedMean(NamedTuple):
    """Seconds and number of runs, both decayed, as of ``at`` (Unix seconds)."""

    seconds: float
    runs: float
    at: float

    @property
    def mean(self) -> float:
        """The mean of the runs in seconds."""
        return self.seconds / self.runs

    def seconds_at(self, now: float, half_life: float) -> float:
        """Return what is left of the seconds ``now`` (Unix seconds); ``half_life`` is in seconds."""
        return self.seconds * self._rest(now, half_life)

    def plus(self, seconds: float, now: float, half_life: float) -> DecayedMean:
        """Return the mean with one more run, as of ``now`` (Unix seconds); ``half_life`` is in seconds."""
        rest = self._rest(now, half_life)
        return DecayedMean(self.seconds * rest + seconds, self.runs * rest + 1, now)

    def _rest(self, now: float, half_life: float) -> float:
        return float(2.0 ** (min(self.at - now, 0.0) / half_life))
