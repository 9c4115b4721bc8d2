"""Shares: how much of the workers' time each key is to get beside the others. Pure.

A share is relative: of two keys that always have tasks waiting, one with share 4 gets four times as much as one with 1.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from celery_dynprio.errors import PolicyError
from celery_dynprio.policies.base import is_number

#: The share of a key for which none is set.
ORDINARY: Final = 1.0


class Shares:
    """The share of each key: as ``overrides`` tell it, else ``share_of``, if any; an ordinary one if neither does.

    With a ``separator`` a key is a path, and what a team gets is its part of what its organization gets (the account
    tree of Slurm's fair share). Only the paths among ``keys`` have a part; their mean share is 1.
    """

    def __init__(
        self,
        share_of: Callable[[str], float | None] | None,
        overrides: Mapping[str, float],
        keys: Iterable[str] = (),
        separator: str | None = None,
    ) -> None:
        self._share_of = share_of
        self._overrides = overrides
        self._separator = separator
        self._known: dict[str, float] = {}
        self._siblings: dict[str, dict[str, float]] = {}
        self._leaves = 0
        for key in keys if separator else ():
            self._leaves += 1
            for parent, child in self._steps(key):
                siblings = self._siblings.setdefault(parent, {})
                if child not in siblings:
                    siblings[child] = self._among(parent, child)
        self._sums = {parent: sum(siblings.values()) for parent, siblings in self._siblings.items()}

    @property
    def are_equal(self) -> bool:
        """Whether each key has a share of 1, so that nobody need ask."""
        return not self._overrides and self._share_of is None and self._separator is None

    def __call__(self, key: str) -> float:
        """Return the share of a key; :class:`~celery_dynprio.errors.PolicyError` if it is no number above 0."""
        share = self._known.get(key)
        if share is None:
            share = self._known[key] = self._own(key) if self._separator is None else self._part(key)
        return share

    def sum(self, keys: Collection[str]) -> float:
        """Return the sum of the shares of these keys, which are those that share out."""
        if self._separator is not None or self._share_of is not None:
            return sum(map(self, keys))
        return len(keys) + sum(self(key) - ORDINARY for key in self._overrides if key in keys)

    def _part(self, path: str) -> float:
        part = 1.0
        for parent, child in self._steps(path):
            own = self._siblings.get(parent, {}).get(child)
            if own is None:
                own = self._among(parent, child)
                part *= own / (self._sums.get(parent, 0.0) + own)
            else:
                part *= own / self._sums[parent]
        return part * max(self._leaves, 1)

    def _steps(self, path: str) -> Iterable[tuple[str, str]]:
        """Return each level of a path: what it is in, and the path up to there.

        The last one, "", is the path itself among what is in it: tasks of ``org`` stand beside those of ``org/team``.
        """
        separator = self._separator or ""
        parts = path.split(separator)
        paths = [separator.join(parts[:count]) for count in range(1, len(parts) + 1)]
        return zip(["", *(each + separator for each in paths)], [*paths, ""], strict=True)

    def _among(self, parent: str, child: str) -> float:
        return self._own(child) if child or not parent else ORDINARY

    def _own(self, key: str) -> float:
        share = self._overrides.get(key)
        if share is None and self._share_of is not None:
            share = self._share_of(key)
        if share is None:
            return ORDINARY
        if not is_number(share) or share <= 0:
            raise PolicyError(f"share {share!r} of key {key!r}: use a finite number above 0")
        return share
