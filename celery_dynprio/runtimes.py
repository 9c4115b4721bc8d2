"""How long tasks are expected to run, as learned from earlier runs. Pure.

What is known of a task grows with each run: at first nothing, then how long its name takes, then how long it takes for
its own fairness key. So an estimate is asked for by task, and answered by the best that is known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist, fmean
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

#: As many runs as this count for what was assumed before the first one.
PRIOR_RUNS: Final = 2.0

#: The assumed standard deviation, in means: that of an exponential distribution, as long as nothing tells better.
PRIOR_VARIATION: Final = 1.0

#: A standard deviation of more means than this is taken for this many: no clock measures such runs.
MOST_VARIATION: Final = 1e6

_NORMAL: Final = NormalDist()


class Estimate(NamedTuple):
    """What the runtime of a task is expected to be: a mean and a standard deviation, both in seconds."""

    mean: float
    deviation: float

    def quantile(self, q: float) -> float:
        """Return the seconds within which such a task ends with probability ``q`` (above 0 and below 1).

        That of the log-normal distribution with this mean and deviation (Aitchison and Brown, The Lognormal
        Distribution, 1957): ``exp(mu + s * z)``, where ``s ** 2 = log(1 + (deviation / mean) ** 2)``,
        ``mu = log(mean) - s ** 2 / 2``, and z is the quantile of the standard normal distribution. Runtimes are
        never negative and their tail is long, and so is it. Raises :class:`ValueError` for any other ``q``.
        """
        if not 0 < q < 1:
            raise ValueError(f"quantile({q!r}): use a number above 0 and below 1")
        return self.mean * self.stretch(_NORMAL.inv_cdf(q))

    def stretch(self, z: float) -> float:
        """Return the quantile in means, for ``z``, that of the standard normal distribution."""
        if self.mean <= 0 or self.deviation <= 0:
            return 1.0
        spread = math.log1p(min(self.deviation / self.mean, MOST_VARIATION) ** 2)
        return math.exp(math.sqrt(spread) * z - spread / 2)


class Sums(NamedTuple):
    """Runs of one kind, each with a weight: the sum of the weights, of the seconds, and of their squares."""

    runs: float
    seconds: float
    squares: float


class Named(Protocol):
    """What a runtime is asked for: a :class:`~celery_dynprio.PendingTask` is one."""

    @property
    def name(self) -> str:
        """The name of the task."""

    @property
    def key(self) -> str | None:
        """The fairness key; None or "" if it has none."""


class Runtimes(Mapping[str, float]):
    """Learned runtimes: as a mapping the mean in seconds by task name, and by :meth:`expected` the best that is known.

    ``means`` are mean seconds by name. ``names`` tells the spread of a name, ``pairs`` the runs of a name for one key,
    by name and key; either may lack any of them.
    """

    def __init__(
        self,
        means: Mapping[str, float] = MappingProxyType({}),
        names: Mapping[str, Sums] = MappingProxyType({}),
        pairs: Mapping[tuple[str, str], Sums] = MappingProxyType({}),
    ) -> None:
        self._means = means
        #: The runs of each name, and of each name and key, as far as their spread is known.
        self.names = names
        self.pairs = pairs
        self._known: dict[str, Estimate] = {}
        self._found = _Found(means, pairs)
        #: The tasks whose means were asked for last, and these: factors ask for the same ones in turn.
        self._asked: tuple[list[Named], Sequence[float | None]] = [], ()
        self._usual: Estimate | None = None

    def __getitem__(self, name: str) -> float:
        return self._means[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._means)

    def __len__(self) -> int:
        return len(self._means)

    def __repr__(self) -> str:
        return f"Runtimes({dict(self._means)!r})"

    def expected(self, task: Named) -> Estimate | None:
        """Return the estimate for a task, None while nothing was learned at all.

        That of its name and key, drawn towards that of its name while it has few runs (the credibility of actuaries:
        Buehlmann 1967); that of its name if it has no key, or none that is known; and the mean of all names for a name
        that never ran.
        """
        usual = self._of_name(task.name)
        runs = self.pairs.get((task.name, task.key)) if task.key else None
        return usual if usual is None or runs is None else _drawn(runs, usual)

    def mean(self, task: Named) -> float | None:
        """Return the mean of :meth:`expected`, in less time."""
        return self._found[task.name, task.key]

    def means(self, tasks: Sequence[Named]) -> Sequence[float | None]:
        """Return the :meth:`mean` of each of many tasks, in less time: each kind is looked up once."""
        asked, means = self._asked
        if tasks != asked:
            found = self._found
            if self.pairs:
                means = [found[task.name, task.key] for task in tasks]
            else:
                means = [found[task.name, None] for task in tasks]
            self._asked = list(tasks), means
        return means

    def largest(self, most: int) -> Runtimes:
        """Return so many names, and so many pairs of name and key: those that took the most time."""
        if len(self._means) <= most and len(self.pairs) <= most:
            return self
        work = {name: self.names[name].seconds if name in self.names else mean for name, mean in self._means.items()}
        worked = {pair: runs.seconds for pair, runs in self.pairs.items()}
        names = sorted(work, key=work.__getitem__, reverse=True)[:most]
        pairs = sorted(worked, key=worked.__getitem__, reverse=True)[:most]
        return Runtimes(
            {name: self._means[name] for name in names},
            {name: self.names[name] for name in names if name in self.names},
            {pair: self.pairs[pair] for pair in pairs},
        )

    def _of_name(self, name: str) -> Estimate | None:
        if name not in self._means:
            return self._of_all() if self._means else None
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = self._spread(name)
        return known

    def _spread(self, name: str) -> Estimate:
        mean = self._means[name]
        return Estimate(mean, mean * math.sqrt(_variation(self.names.get(name))))

    def _of_all(self) -> Estimate:
        if self._usual is None:
            each = [self._spread(name) for name in self._means]
            mean = fmean(known.mean for known in each)
            squares = fmean(known.mean**2 + known.deviation**2 for known in each)
            self._usual = Estimate(mean, math.sqrt(max(squares - mean**2, 0.0)))
        return self._usual


class _Found(dict[tuple[str, str | None], float | None]):
    """The mean by name and key, found when it is first asked for: that of all names for an unknown one."""

    def __init__(self, means: Mapping[str, float], pairs: Mapping[tuple[str, str], Sums]) -> None:
        super().__init__()
        self._means, self._pairs = means, pairs
        self._usual: float | None = None

    def __missing__(self, kind: tuple[str, str | None]) -> float | None:
        name, key = kind
        mean = self._means.get(name)
        if mean is None:
            mean = self._mean_of_all()
        if key and mean is not None:
            runs = self._pairs.get((name, key))
            mean = mean if runs is None else _drawn_mean(runs, mean)
        self[kind] = mean
        return mean

    def _mean_of_all(self) -> float | None:
        if self._usual is None and self._means:
            self._usual = fmean(self._means.values())
        return self._usual


def _variation(runs: Sums | None) -> float:
    """The squared deviation of a name's runs, in squared means, drawn towards the assumed one while they are few."""
    square = 0.0 if runs is None else runs.seconds**2
    if runs is None or not square:
        return PRIOR_VARIATION**2
    seen = min(max(runs.runs * runs.squares / square - 1.0, 0.0), MOST_VARIATION**2)
    return (runs.runs * seen + PRIOR_RUNS * PRIOR_VARIATION**2) / (runs.runs + PRIOR_RUNS)


def _drawn(runs: Sums, usual: Estimate) -> Estimate:
    """These runs, and so many assumed ones that take what is usual."""
    mean = _drawn_mean(runs, usual.mean)
    squares = runs.squares + PRIOR_RUNS * (usual.mean**2 + usual.deviation**2)
    return Estimate(mean, math.sqrt(max(squares / (runs.runs + PRIOR_RUNS) - mean**2, 0.0)))


def _drawn_mean(runs: Sums, usual: float) -> float:
    return (runs.seconds + PRIOR_RUNS * usual) / (runs.runs + PRIOR_RUNS)
