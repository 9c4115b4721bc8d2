"""The ``dynprio_`` settings of a Celery app, validated."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final

from celery_dynprio.errors import SettingError
from celery_dynprio.loading import import_symbol
from celery_dynprio.objectives import Objective
from celery_dynprio.policies import Factor, Policy, default_policy

if TYPE_CHECKING:
    from celery import Celery

PREFIX: Final = "dynprio_"

#: The decorator's name looks like a setting in a module that is its own configuration.
NO_SETTINGS: Final = frozenset({"dynprio_task"})

MAX_PORT: Final = 65_535


@dataclass(frozen=True, slots=True)
class Settings:
    """What the app's owner decided; each field is the Celery setting ``dynprio_<field>``.

    Raises :class:`~celery_dynprio.errors.SettingError` for a value that is not allowed.
    """

    #: The managed queues; by default the app's ``task_default_queue``.
    queues: tuple[str, ...] = ("celery",)
    #: A policy, a factor, or where to import one from: "module:attribute".
    policy: Policy = field(default_factory=default_policy)
    #: Seconds between two ticks of the reprioritizer.
    interval: float = 1.0
    #: How many messages of a queue are kept in the front, within the workers' reach.
    window: int = 10_000
    #: Seconds of broker time that one tick may spend on moves.
    budget: float = 0.2
    #: How far beyond its band, as a fraction of a band's width, a score must be before a task changes level.
    hysteresis: float = 0.25
    #: Whether workers start the reprioritizer when no other runs.
    embedded: bool = True
    #: Whether a subtask takes key, weight and deadline from its parent unless it has its own.
    inherit: bool = True
    #: Seconds after which another reprioritizer takes over from one that went silent.
    lease_ttl: float = 10.0
    #: Seconds in which learned use and runtimes lose half of their weight.
    half_life: float = 600.0
    #: Whether workers measure runtimes and use.
    learn: bool = True
    #: Whether workers keep in the broker what became of each task, for ``dynprio trace``.
    trace: bool = True
    #: Seconds for which a trace is kept after its last change.
    trace_ttl: float = 86_400.0
    #: How many spans, runs of tasks, are kept of one trace, and of all traces together.
    trace_max_spans: int = 1000
    trace_total_spans: int = 100_000
    #: "text" or "json": how workers format their logs, with trace, task and level; None leaves Celery's own formats.
    log_format: str | None = None
    #: The TCP port at which reprioritizers answer Prometheus, and the address that they listen on; None for no metrics,
    #: and then workers count nothing for them.
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"
    #: Whether reprioritizers send a Celery event for each move.
    events: bool = False
    #: Which share of which tasks is to start in time, and what yields when it does not.
    objectives: tuple[Objective, ...] = ()

    def __post_init__(self) -> None:
        for name, read in _READERS.items():
            object.__setattr__(self, name, read(PREFIX + name, getattr(self, name)))

    @classmethod
    def from_app(cls, app: Celery) -> Settings:
        """Read the settings in whichever way the app was given them; this configures the app if it is not yet."""
        conf = app.conf.finalize()
        known = [setting.name for setting in fields(cls)]
        given = _given(conf.maps, conf.prefix)
        for name, (spelling, value) in given.items():
            if name not in known:
                meant = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean {PREFIX}{meant[0]}?" if meant else f"use one of {', '.join(sorted(known))}"
                raise SettingError(spelling, value, f"no such setting; {hint}")
        values = {name: value for name, (_, value) in given.items()}
        return cls(**{"queues": (conf.task_default_queue,), **values})


def _given(maps: list[Mapping[str, Any]], prefix: str | None) -> dict[str, tuple[str, Any]]:
    """All settings with our prefix, as they are spelled and by their name; the first map wins, as in Celery."""
    ours = re.compile(rf"(?:{re.escape(prefix or '')}|celery_)?{PREFIX}(\w+)", re.IGNORECASE)
    given: dict[str, tuple[str, Any]] = {}
    for settings in maps:
        for spelling in settings:
            found = ours.fullmatch(str(spelling))
            if found and spelling not in NO_SETTINGS:
                given.setdefault(found[1].lower(), (spelling, settings[spelling]))
    return given


def _queues(setting: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple, set, frozenset)) or not value:
        raise SettingError(setting, value, 'use a list of queue names, such as ["celery"]')
    for name in value:
        if not isinstance(name, str) or not name:
            raise SettingError(setting, value, f"{name!r} is not the name of a queue")
    return tuple(dict.fromkeys(sorted(value) if isinstance(value, (set, frozenset)) else value))


def _policy(setting: str, value: Any) -> Policy:
    found = value
    if isinstance(value, str):
        try:
            found = import_symbol(value)
        except Exception as exc:  # whatever the user's module raises
            raise SettingError(setting, value, f"cannot be imported: {exc!r}") from exc
    if isinstance(found, Factor):
        found = 1 * found
    if not isinstance(found, Policy):
        allowed = 'use a policy such as 2 * Weight() + Age(saturation=300), or the place of one: "module:attribute"'
        raise SettingError(setting, value, allowed)
    return found


def _seconds(setting: str, value: Any) -> float:
    if not _is_number(value) or value <= 0:
        raise SettingError(setting, value, "use a finite number of seconds above 0")
    return float(value)


def _fraction(setting: str, value: Any) -> float:
    if not _is_number(value) or not 0 <= value <= 1:
        raise SettingError(setting, value, "use a number from 0 to 1")
    return float(value)


def _count(setting: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise SettingError(setting, value, "use a whole number, 1 or above")
    return value


def _switch(setting: str, value: Any) -> bool:
    if type(value) is not bool:
        raise SettingError(setting, value, "use True or False")
    return value


def _log_format(setting: str, value: Any) -> str | None:
    if value is None or (isinstance(value, str) and value in {"text", "json"}):
        return value
    raise SettingError(setting, value, 'use "text", "json" or None')


def _port(setting: str, value: Any) -> int | None:
    if value is None or (type(value) is int and 0 < value <= MAX_PORT):
        return value
    raise SettingError(setting, value, f"use a port, a whole number from 1 to {MAX_PORT}, or None")


def _objectives(setting: str, value: Any) -> tuple[Objective, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, Objective) for each in value):
        raise SettingError(
            setting, value, 'use a list such as [Objective("checkouts", match="shop.checkout", within=5)]'
        )
    names = [each.name for each in value]
    if len(set(names)) < len(names):
        raise SettingError(setting, value, "give each objective a name of its own")
    return tuple(value)


def _host(setting: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise SettingError(setting, value, 'use an address, such as "127.0.0.1", or "0.0.0.0" for all of this machine')
    return value


def _is_number(value: Any) -> bool:
    return type(value) in {int, float} and math.isfinite(value)


_READERS: Final[Mapping[str, Callable[[str, Any], Any]]] = {
    "queues": _queues,
    "policy": _policy,
    "interval": _seconds,
    "window": _count,
    "budget": _seconds,
    "hysteresis": _fraction,
    "embedded": _switch,
    "inherit": _switch,
    "lease_ttl": _seconds,
    "half_life": _seconds,
    "learn": _switch,
    "trace": _switch,
    "trace_ttl": _seconds,
    "trace_max_spans": _count,
    "trace_total_spans": _count,
    "log_format": _log_format,
    "metrics_port": _port,
    "metrics_host": _host,
    "events": _switch,
    "objectives": _objectives,
}
