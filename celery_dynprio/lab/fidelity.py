"""How faithful a replay is: a recording played under the policy that was in force, beside what really happened."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from celery_dynprio.lab.conditions import Conditions
from celery_dynprio.lab.contenders import Production
from celery_dynprio.lab.measures import measures
from celery_dynprio.lab.recording import Recording, Task
from celery_dynprio.lab.replay import Fleet, replay
from celery_dynprio.levels import Scale
from celery_dynprio.policies import Policy

#: The class of tasks whose real wait is not known: they take their slots, and are not compared.
_UNKNOWN: Final = "\0"


#: Seconds; shorter mean waits say nothing of the order.
NEGLIGIBLE: Final = 0.05


class Waits(NamedTuple):
    """The mean waits of some tasks, in seconds."""

    name: str
    tasks: int
    recorded: float
    replayed: float

    @property
    def error(self) -> float | None:
        """By which part the replayed one is larger, negative if smaller; None if neither is worth speaking of."""
        if max(self.recorded, self.replayed) < NEGLIGIBLE or not self.recorded:
            return None
        return self.replayed / self.recorded - 1


@dataclass(frozen=True, slots=True)
class Fidelity:
    """What came out; without any task that waited there is nothing to compare."""

    #: All tasks, and then each class, those with the most tasks first.
    waits: Sequence[Waits] = ()
    #: Why there is nothing to compare; "" if there is.
    unknown: str = ""


def fidelity(
    recording: Recording, conditions: Conditions, policy: Policy, group: Callable[[Task], str], fleet: Fleet
) -> Fidelity:
    """Play a recording as it is under the policy of its conditions, and compare the mean waits of its classes.

    ``fleet`` has the workers if the recording does not tell them. Nothing had been learned when a replay begins.
    """

    def known(task: Task) -> str:
        return _UNKNOWN if task.waited is None else group(task)

    production = Production(
        Scale(conditions.levels, conditions.plain_levels),
        conditions.window,
        conditions.hysteresis,
        conditions.budget,
        half_life=conditions.half_life,
    )
    played = measures(
        replay(recording(), production.planned(policy), fleet, tick=conditions.interval, group=known)
    ).groups
    tasks: Counter[str] = Counter()
    waited: defaultdict[str, float] = defaultdict(float)
    for entry in recording():
        if isinstance(entry, Task) and entry.waited is not None:
            tasks[group(entry)] += 1
            waited[group(entry)] += entry.waited
    found = [
        Waits(name, tasks[name], waited[name] / tasks[name], played[name].mean) for name in tasks if name in played
    ]
    if not found:
        return Fidelity(unknown="the recording tells of no task how long it waited")
    return Fidelity([_all(found), *sorted(found, key=lambda each: (-each.tasks, each.name))])


def _all(found: Sequence[Waits]) -> Waits:
    tasks = sum(each.tasks for each in found)
    recorded, replayed = (
        sum(each.tasks * value for each, value in zip(found, values, strict=True)) / tasks
        for values in ([each.recorded for each in found], [each.replayed for each in found])
    )
    return Waits("all tasks", tasks, recorded, replayed)
