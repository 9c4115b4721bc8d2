"""How sure a figure is."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the two of these values between which the true median is with 95 % probability, from six values on.

    That holds for any distribution: how many of n values are below the median is binomial.
    """
    ordered = sorted(values)
    outside = max(round(len(ordered) / 2 - 0.98 * len(ordered) ** 0.5), 1)
    return ordered[outside - 1], ordered[-outside]


def medians(measured: Sequence[Mapping[str, float]], digits: int = 2) -> dict[str, Any]:
    """Return the median of each figure that was measured several times, with its 95 % interval."""
    found: dict[str, Any] = {"n": len(measured)}
    for name in measured[0]:
        values = [each[name] for each in measured]
        found[name] = round(statistics.median(values), digits)
        found[f"{name}: 95 % interval"] = [round(each, digits) for each in median_interval(values)]
    return found
