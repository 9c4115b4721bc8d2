"""Who is compared: the policies as production carries them out, plain disciplines, and what nobody can beat."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Final

from celery_dynprio.lab.disciplines import (
    Discipline,
    EarliestDeadline,
    FirstCome,
    RoundRobin,
    ShortestJob,
    StaticPriorities,
)
from celery_dynprio.lab.exact import ExactOrder
from celery_dynprio.lab.learning import Learning
from celery_dynprio.lab.planned import Planned
from celery_dynprio.levels import Scale
from celery_dynprio.policies import Policy
from celery_dynprio.producer.placement import Placement

#: The levels of an app that sets none of its own, and those of kombu's own among them.
TEN_LEVELS: Final = Scale(tuple(range(10)), (0, 3, 6, 9))


class Kind(Enum):
    """What a contender is to the others."""

    #: A policy, with levels, ticks and moves as in production.
    POLICY = "policy"
    #: A plain discipline that a queue could be run by.
    PLAIN = "plain"
    #: What nobody can have: it moves for nothing, or knows run times beforehand.
    BOUND = "bound"


@dataclass(frozen=True, slots=True)
class Contender:
    """One discipline; ``make`` makes it anew for each replay."""

    name: str
    kind: Kind
    make: Callable[[], Discipline]
    #: Of a bound, the policy that it is the bound of.
    bounds: str | None = None
    #: Of a policy, the formula.
    policy: Policy | None = None


@dataclass(frozen=True, slots=True)
class Production:
    """What a policy is carried out with; as the settings of the same names."""

    #: The broker's numbers of the levels.
    scale: Scale = TEN_LEVELS
    window: int = 10_000
    hysteresis: float = 1.0
    #: Seconds of broker time for the moves of one tick, and for one move.
    budget: float = 0.2
    move_seconds: float = 80e-6
    half_life: float = 600.0

    def planned(self, policy: Policy, learning: Learning | None = None) -> Planned:
        """The policy with levels, ticks and moves; without ``learning``, nothing is known at first."""
        return Planned(
            policy,
            partial(Placement, policy, self.scale),
            Learning(self.half_life) if learning is None else learning,
            window=self.window,
            hysteresis=self.hysteresis,
            budget=self.budget,
            move_seconds=self.move_seconds,
        )

    def contender(self, name: str, policy: Policy) -> Contender:
        """The policy as one of those that are compared."""
        return Contender(name, Kind.POLICY, partial(self.planned, policy), policy=policy)

    def exact(self, policy: Policy) -> ExactOrder:
        """The policy in exact order."""
        return ExactOrder(policy, Learning(self.half_life), len(self.scale.levels))


#: The name of what all others are measured against.
FIRST_COME: Final = "first come"

PLAIN: Final = (
    Contender(FIRST_COME, Kind.PLAIN, FirstCome),
    Contender("static priorities", Kind.PLAIN, StaticPriorities),
    Contender("round robin by key", Kind.PLAIN, RoundRobin),
    Contender("earliest deadline", Kind.PLAIN, EarliestDeadline),
)
SHORTEST: Final = Contender("shortest job (known run times)", Kind.BOUND, ShortestJob)


def contenders(policies: Mapping[str, Policy], production: Production) -> list[Contender]:
    """Each policy as in production, the plain disciplines, and the bounds."""
    planned = [production.contender(name, policy) for name, policy in policies.items()]
    exact = [
        Contender(f"{name}, exact order", Kind.BOUND, partial(production.exact, policy), name)
        for name, policy in policies.items()
    ]
    return [*planned, *PLAIN, *exact, SHORTEST]
