"""What a process knows of learned runtimes and use: read once from Redis, then kept up to date by what changes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Final

from celery_dynprio.ports.stores import UsageFigures
from celery_dynprio.runtimes import Runtimes, Sums

#: Between the name and the key of a task, in one field.
SEPARATOR: Final = "\x06\x16"

#: Sums outside of these are malformed; their products and quotients fit into floats.
_LEAST, _MOST = 1e-9, 1e30

#: No number grows by more halvings than this, whatever clocks say: it would not fit into a float.
_MOST_HALVINGS: Final = 900.0


class Learned:
    """The values of the three hashes of ``lua/use_record.lua`` as numbers; what is malformed counts as not known.

    ``half_life`` is in seconds.
    """

    def __init__(self, half_life: float) -> None:
        self._half_life = half_life
        self._setters = self._set_use, self._set_mean, self._set_spread
        #: What was made of them last, as long as it is true.
        self._runtimes: Runtimes | None = None
        self._forget(0.0)

    def __len__(self) -> int:
        return len(self._use) + len(self._means) + len(self._names) + len(self._pairs)

    def replace(self, hashes: Sequence[Mapping[bytes, bytes]], now: float) -> None:
        """Know what these hashes hold ``now`` (Unix seconds), and nothing else."""
        self._forget(now)
        for put, fields in zip(self._setters, hashes, strict=True):
            for field, value in fields.items():
                try:
                    put(field.decode(), value.decode(), now)
                except UnicodeDecodeError:
                    continue

    def take(self, number: int, change: bytes | None, now: float) -> bool:
        """Take in the change of this number, as of ``now``; False if it is another one, or none."""
        try:
            told, *rest = json.loads(change or b"[]")
            for index, field, value in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
                self._setters[index - 1](str(field), value, now)
        except (ValueError, TypeError, AttributeError, IndexError, RecursionError):
            return False
        return bool(told == str(number))

    def figures(self, now: float) -> UsageFigures:
        """Return all of it as of ``now`` (Unix seconds); what is learned later does not change it."""
        left = 2.0 ** (min(self._epoch - now, 0.0) / self._half_life)
        use = {key: seconds * left for key, seconds in self._use.items()}
        if self._runtimes is None:
            self._runtimes = Runtimes(dict(self._means), dict(self._names), dict(self._pairs))
        return UsageFigures(self._runtimes, use)

    def _forget(self, now: float) -> None:
        self._means: dict[str, float] = {}
        self._names: dict[str, Sums] = {}
        self._pairs: dict[tuple[str, str], Sums] = {}
        #: Seconds, as if each had been used at the epoch: so one factor decays them all, however many there are.
        self._use: dict[str, float] = {}
        self._epoch = now
        self._runtimes = None

    def _set_use(self, key: str, value: str, now: float) -> None:
        numbers = _numbers(value, 3)
        if numbers is None:
            self._use.pop(key, None)
        else:
            seconds, _, at = numbers
            halvings = (min(at, now) - self._epoch) / self._half_life
            self._use[key] = seconds * 2.0 ** min(halvings, _MOST_HALVINGS)

    def _set_mean(self, name: str, value: str, now: float) -> None:  # noqa: ARG002 - a mean does not age
        numbers = _numbers(value, 3)
        self._runtimes = None
        if numbers is None:
            self._means.pop(name, None)
        else:
            seconds, runs, _ = numbers
            self._means[name] = seconds / runs

    def _set_spread(self, field: str, value: str, now: float) -> None:  # noqa: ARG002 - nor does a spread
        name, _, key = field.partition(SEPARATOR)
        numbers = _numbers(value, 4)
        self._runtimes = None
        if numbers is None:
            self._pairs.pop((name, key), None) if key else self._names.pop(name, None)
            return
        seconds, runs, squares, _ = numbers
        sums = Sums(runs, seconds, squares)
        if key:
            self._pairs[name, key] = sums
        else:
            self._names[name] = sums


def _numbers(value: str, count: int) -> list[float] | None:
    """Return so many numbers: seconds, runs and perhaps squares, then a time; None if they are not that."""
    try:
        numbers = list(map(float, value.split()))
    except ValueError:
        return None
    if len(numbers) != count or not numbers[1] or not math.isfinite(numbers[-1]):
        return None
    return numbers if all(not each or _LEAST <= each <= _MOST for each in numbers[:-1]) else None
