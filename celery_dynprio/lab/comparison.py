"""Who is better at what, and whether that is more than chance. Pure.

All contenders play the same workloads, so what counts is the difference within each: paired comparison with common
random numbers. Intervals hold the true figure with 95 % confidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist
from typing import Final, NamedTuple

from celery_dynprio.lab.contenders import FIRST_COME, Contender, Kind
from celery_dynprio.lab.measures import Measures, mean
from celery_dynprio.lab.study import Study

#: Student's t for 95 %, by degrees of freedom from 1 on: for fewer than 20 seeds.
_T95: Final = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101,
)  # fmt: skip

#: Of a single replay nobody knows the noise; smaller differences than this share are not told of.
LEAST_OF_ONE: Final = 0.01


class Interval(NamedTuple):
    """A mean over the seeds, and where the true one is with 95 % confidence; None and None of a single seed."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Measure:
    """One thing that a contender may be better at."""

    title: str
    of: Callable[[Measures], float | None]
    #: Whether a larger value is better.
    more: bool = False
    #: Whether it is a share, shown in percent, rather than seconds or a number.
    share: bool = False
    unit: str = " s"


class Duel(NamedTuple):
    """How a contender stands against another one in one measure."""

    measure: Measure
    opponent: str
    own: float
    other: float
    #: Own less other.
    difference: Interval

    @property
    def relative(self) -> float:
        """The size of the difference as a share of the larger of the two."""
        largest = max(abs(self.own), abs(self.other))
        return abs(self.difference.mean) / largest if largest else 0.0


OVERALL: Final = (
    Measure("mean wait", lambda found: found.wait.mean),
    Measure("weighted mean wait", lambda found: found.weighted_wait),
    Measure("median wait", lambda found: found.wait.p50),
    Measure("wait, p95", lambda found: found.wait.p95),
    Measure("wait, p99", lambda found: found.wait.p99),
    Measure("longest wait", lambda found: found.wait.longest),
    Measure("mean bounded slowdown", lambda found: found.slowdown, unit=""),
    Measure("fairness between keys (Jain)", lambda found: found.fairness, more=True, unit=""),
    Measure("started in time", lambda found: found.in_time, more=True, share=True, unit=""),
    Measure("weighted tardiness", lambda found: found.tardiness),
)


def of_classes(found: Study) -> list[Measure]:
    """The measures of each class: its mean wait, its p95, and its share in time."""
    return measures_of_classes([each for figures in found.figures.values() for each in figures])


def measures_of_classes(figures: Iterable[Measures]) -> list[Measure]:
    """The measures of each class that there is in these figures."""
    figures = list(figures)
    names = sorted({group for each in figures for group in each.groups})
    with_deadline = {group for each in figures for group in each.groups_in_time}
    measures: list[Measure] = []
    for name in names:
        measures += [
            Measure(f"mean wait of {name}", partial(_mean_of, name)),
            Measure(f"wait of {name}, p95", partial(_p95_of, name)),
        ]
        if name in with_deadline:
            measures.append(
                Measure(f"{name} started in time", partial(_in_time_of, name), more=True, share=True, unit="")
            )
    return measures


def _mean_of(group: str, found: Measures) -> float | None:
    return found.groups[group].mean if group in found.groups else None


def _p95_of(group: str, found: Measures) -> float | None:
    return found.groups[group].p95 if group in found.groups else None


def _in_time_of(group: str, found: Measures) -> float | None:
    return found.groups_in_time.get(group)


def interval(values: Sequence[float]) -> Interval:
    """The mean of a figure over resampled workloads, and where the true one is.

    That is the percentile interval of the bootstrap (Efron 1979), or the normal one with Student's t if there are too
    few seeds for percentiles: as much as the resampled figures differ, the recording leaves open. More seeds make it
    steadier, not narrower.
    """
    middle, count = mean(values), len(values)
    if count < 2:  # noqa: PLR2004 - one has no spread
        return Interval(middle, None, None)
    if count - 1 > len(_T95):
        ordered = sorted(values)
        return Interval(middle, _between(ordered, 0.025), _between(ordered, 0.975))
    reach = _T95[count - 2] * _spread(values)
    return Interval(middle, middle - reach, middle + reach)


def joint_interval(pairs: Sequence[tuple[float, float]], comparisons: int, *, share: bool = False) -> Interval:
    """The mean difference of two figures over resampled workloads, and where it is together with other ones.

    Who picks from several differences finds one that is good by chance. So all intervals of so many ``comparisons``
    hold at once with 95 % confidence (Bonferroni). They are normal ones, as 20 seeds have no such percentiles. The
    difference of two waits grows with the load of a workload, so what is taken for normal is the difference as a part
    of the other figure; of a ``share`` it is the difference itself.
    """
    middle = mean([own - other for own, other in pairs])
    if share or min(other for _, other in pairs) <= 0:
        scale, parts = 1.0, [own - other for own, other in pairs]
    else:
        scale, parts = mean([other for _, other in pairs]), [own / other - 1.0 for own, other in pairs]
    reach = _spread(parts) * NormalDist().inv_cdf(1 - 0.025 / comparisons)
    return Interval(middle, (mean(parts) - reach) * scale, (mean(parts) + reach) * scale)


def _spread(values: Sequence[float]) -> float:
    """The standard deviation, as of a sample."""
    middle = mean(values)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1))


def _between(ordered: Sequence[float], share: float) -> float:
    """The quantile of sorted values, with straight lines between them."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def summary(found: Study, name: str, measure: Measure) -> Interval | None:
    """A measure of one contender over all seeds; None if it does not apply."""
    values = [value for each in found.figures[name] if (value := measure.of(each)) is not None]
    return interval(values) if values else None


def duel(found: Study, own: str, other: str, measure: Measure, comparisons: int | None = None) -> Duel | None:
    """Compare two contenders in one measure; None if it does not apply.

    With 20 seeds or more and a number of ``comparisons``, the interval is that of :func:`joint_interval`.
    """
    pairs = [
        (mine, theirs)
        for one, two in zip(found.figures[own], found.figures[other], strict=True)
        if (mine := measure.of(one)) is not None and (theirs := measure.of(two)) is not None
    ]
    if not pairs:
        return None
    mine, theirs = mean([each for each, _ in pairs]), mean([each for _, each in pairs])
    if comparisons is not None and len(pairs) - 1 > len(_T95):
        difference = joint_interval(pairs, comparisons, share=measure.share)
    else:
        difference = interval([one - two for one, two in pairs])
    return Duel(measure, other, mine, theirs, difference)


def is_clear(found: Duel) -> bool:
    """Whether a difference is more than chance; of a single replay, whether it is worth telling."""
    low, high = found.difference.low, found.difference.high
    if low is None or high is None:
        return found.relative > LEAST_OF_ONE
    return low > 0 or high < 0


def is_better(found: Duel) -> bool:
    """Whether the first of the two is better, be it by chance."""
    return found.difference.mean > 0 if found.measure.more else found.difference.mean < 0


def gain(found: Study, policy: str) -> Interval | None:
    """How much of what exact order gains over first come, in weighted mean wait, the policy has with its levels.

    None if exact order gains nothing, so that there is nothing to reach.
    """
    exact = next((each.name for each in found.contenders if each.bounds == policy), None)
    if exact is None or FIRST_COME not in found.figures:
        return None
    shares = []
    for plain, own, best in zip(found.figures[FIRST_COME], found.figures[policy], found.figures[exact], strict=True):
        possible = plain.weighted_wait - best.weighted_wait
        if possible > LEAST_OF_ONE * plain.weighted_wait:
            shares.append((plain.weighted_wait - own.weighted_wait) / possible)
    return interval(shares) if shares else None


def opponents(found: Study, own: str) -> list[Contender]:
    """Whom a contender is compared with: all but itself and what nobody can have."""
    return [each for each in found.contenders if each.kind is not Kind.BOUND and each.name != own]


def losses(found: Study, own: str) -> Iterator[Duel]:
    """Where a contender clearly loses: for each such measure against whom it loses most."""
    for measure in (*OVERALL, *of_classes(found)):
        lost = [each for each in _duels(found, own, measure) if is_clear(each) and not is_better(each)]
        if lost:
            yield max(lost, key=lambda each: abs(each.difference.mean))


def wins(found: Study, own: str) -> Iterator[tuple[Duel, bool]]:
    """Where no other is better: the nearest of the others, and whether the difference is clear."""
    for measure in (*OVERALL, *of_classes(found)):
        duels = list(_duels(found, own, measure))
        if duels and all(is_better(each) for each in duels):
            nearest = min(duels, key=lambda each: abs(each.difference.mean))
            yield nearest, is_clear(nearest)


def _duels(found: Study, own: str, measure: Measure) -> Iterator[Duel]:
    for other in opponents(found, own):
        if (each := duel(found, own, other.name, measure)) is not None:
            yield each
