"""What was in force while a recording was made, as far as a replay can heed it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from celery_dynprio.untrusted import number, whole


@dataclass(frozen=True, slots=True)
class Conditions:
    """Settings of the app and of its workers; in the header of a recording."""

    #: The policy as code, and as plain data (see :mod:`celery_dynprio.configuration.declarations`); None if plain data
    #: cannot say it.
    policy: str
    declared: Any
    queues: tuple[str, ...]
    #: As the settings of these names.
    interval: float
    window: int
    hysteresis: float
    budget: float
    half_life: float
    #: The broker's numbers of the levels, and of those that workers without the add-on take from, too.
    levels: tuple[int, ...]
    plain_levels: tuple[int, ...]
    #: Tasks that a worker reserves for each slot beside the one that it runs.
    prefetch: int

    def as_object(self) -> dict[str, Any]:
        """What the header says."""
        return asdict(self)

    @classmethod
    def read(cls, header: Mapping[str, Any]) -> Conditions | None:
        """Read a header; None if it does not say all of it."""
        policy, queues = header.get("policy"), header.get("queues")
        found: dict[str, Any] = {
            "policy": policy if isinstance(policy, str) else None,
            "queues": tuple(map(str, queues)) if isinstance(queues, list) else None,
        }
        found |= {name: number(header.get(name)) for name in ("interval", "hysteresis", "budget", "half_life")}
        found |= {name: whole(header.get(name)) for name in ("window", "prefetch")}
        found |= {name: _numbers(header.get(name)) for name in ("levels", "plain_levels")}
        return None if None in found.values() else cls(**found, declared=header.get("declared"))


def _numbers(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list) or not value or any(whole(each) is None for each in value):
        return None
    return tuple(value)
