"""The ``dynprio_`` settings of a Celery app, validated."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, TypeVar

from celery_dynprio.configuration import readers
from celery_dynprio.errors import SettingError
from celery_dynprio.objectives import Objective
from celery_dynprio.policies import Policy, default_policy

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger(__name__)

T = TypeVar("T")

PREFIX: Final = "dynprio_"

#: With ``dynprio_events``, at most so many moves are sent as events in a second.
MAX_EVENTS: Final = 100

#: Where a module is its own configuration, the decorator's name looks like a setting.
NO_SETTINGS: Final = frozenset({"dynprio_task"})


def setting(read: Callable[[str, Any], T], *, default: T) -> T:
    """Return a field of :class:`Settings`; ``read`` is one of :mod:`celery_dynprio.configuration.readers`."""
    return field(default=default, metadata={"read": read})


@dataclass(frozen=True, slots=True)
class Settings:
    """What the app's owner decided; each field is the Celery setting ``dynprio_<field>``.

    Raises :class:`~celery_dynprio.errors.SettingError` for a value that is not allowed.
    """

    #: The managed queues; by default the app's ``task_default_queue``.
    queues: tuple[str, ...] = setting(readers.read_queues, default=("celery",))
    #: A policy, a factor, plain data (see :mod:`.configuration.declarations`), or its place, "module:attribute".
    policy: Policy = field(default_factory=default_policy, metadata={"read": readers.read_policy})
    #: Seconds between two ticks of the reprioritizer, at most; while ticks cost little, they come sooner.
    interval: float = setting(readers.read_seconds, default=1.0)
    #: How many messages of a queue are kept in the front, within the workers' reach.
    window: int = setting(readers.read_count, default=10_000)
    #: Seconds of broker time that one tick may spend on moves.
    budget: float = setting(readers.read_seconds, default=0.2)
    #: How far beyond its band, as a fraction of a band's width, a score must be before a task changes level.
    hysteresis: float = setting(readers.read_fraction, default=1.0)
    #: Whether workers start the reprioritizer when no other runs.
    embedded: bool = setting(readers.read_switch, default=True)
    #: Whether a subtask takes key, weight and deadline from its parent unless it has its own.
    inherit: bool = setting(readers.read_switch, default=True)
    #: Whether publishing fails if the key of a call cannot be found or is too long; else the task has no key.
    strict: bool = setting(readers.read_switch, default=False)
    #: Seconds after which another reprioritizer takes over from one that went silent.
    lease_ttl: float = setting(readers.read_seconds, default=10.0)
    #: Seconds in which learned use and runtimes lose half of their weight.
    half_life: float = setting(readers.read_seconds, default=600.0)
    #: Whether workers measure runtimes and use.
    learn: bool = setting(readers.read_switch, default=True)
    #: Whether workers keep in the broker what became of each task, for ``dynprio trace``.
    trace: bool = setting(readers.read_switch, default=True)
    #: Seconds for which a trace is kept after its last change.
    trace_ttl: float = setting(readers.read_seconds, default=86_400.0)
    #: How many spans, runs of tasks, are kept of one trace, and of all traces together.
    trace_max_spans: int = setting(readers.read_count, default=1000)
    trace_total_spans: int = setting(readers.read_count, default=100_000)
    #: "text" or "json": how workers format their logs, with trace, task and level; None leaves Celery's own formats.
    log_format: str | None = setting(readers.read_log_format, default=None)
    #: The TCP port at which reprioritizers answer Prometheus, and the address that they listen on. None means no
    #: metrics; workers then count nothing for them.
    metrics_port: int | None = setting(readers.read_port, default=None)
    metrics_host: str = setting(readers.read_host, default="127.0.0.1")
    #: Whether reprioritizers send a Celery event for each move.
    events: bool = setting(readers.read_switch, default=False)
    #: The file to which the reprioritizer that leads the first managed queue records what becomes of all tasks; None
    #: for no recording. How large each file may become (bytes), and how many are kept.
    record: str | None = setting(readers.read_path, default=None)
    record_size: int = setting(readers.read_count, default=100_000_000)
    record_files: int = setting(readers.read_count, default=10)
    #: With it the keys in recordings are hashed, always to the same hash; None for readable keys.
    record_secret: str | None = setting(readers.read_secret, default=None)
    #: Which share of which tasks is to start in time, and what yields when it does not; as objects or plain data.
    objectives: tuple[Objective, ...] = setting(readers.read_objectives, default=())

    def __post_init__(self) -> None:
        for each in fields(self):
            object.__setattr__(self, each.name, each.metadata["read"](PREFIX + each.name, getattr(self, each.name)))

    @classmethod
    def from_app(cls, app: Celery) -> Settings:
        """Read the settings in whichever way the app was given them; this configures the app if it is not yet."""
        conf = app.conf.finalize()
        known = [each.name for each in fields(cls)]
        given = _given(conf, known)
        for name, (spelling, value) in given.items():
            if name not in known:
                raise SettingError(spelling, value, f"no such setting; {_hint(spelling, name, known)}")
        if conf.prefix:
            _warn_of_bare(conf, [name for name in known if name not in given])
        values = {name: value for name, (_, value) in given.items()}
        return cls(**{"queues": (conf.task_default_queue,), **values})


def _given(conf: Any, known: Collection[str]) -> dict[str, tuple[str, Any]]:
    """Return the settings that are ours: by name, the user's spelling and the value. The first map wins, as in Celery.

    With a namespace, ours are the names that begin with it and, as Celery reads these too, the lower-case names of
    existing settings. So is whatever ``app.conf.update(dynprio_...)`` sets. All other names are the user's own.
    """
    reserved = re.compile(rf"{re.escape(conf.prefix) if conf.prefix else '(?:celery_)?'}{PREFIX}(\w+)", re.IGNORECASE)
    bare = re.compile(rf"{PREFIX}(\w+)")
    given: dict[str, tuple[str, Any]] = {}
    for settings in conf.maps:
        for pattern in (reserved, bare):
            for spelling in settings:
                found = pattern.fullmatch(str(spelling))
                if found is None or spelling in NO_SETTINGS:
                    continue
                name = found[1].lower()
                if pattern is reserved or name in known or settings is conf.changes:
                    given.setdefault(name, (spelling, settings[spelling]))
    return given


def _warn_of_bare(conf: Any, known: Collection[str]) -> None:
    """Warn of names that lack the app's namespace and so are not read, though they are probably meant to be."""
    for spelling in {str(spelling) for settings in conf.maps for spelling in settings}:
        if spelling.lower().startswith(PREFIX) and spelling.lower().removeprefix(PREFIX) in known:
            logger.warning("%s is not read: with the namespace of this app it is %s%s", spelling, conf.prefix, spelling)


def _hint(spelling: str, name: str, known: Collection[str]) -> str:
    """Return the closest setting in the user's own spelling, or all settings."""
    written = spelling[: -len(name)]
    meant = [
        written + (each.upper() if written.isupper() else each) for each in difflib.get_close_matches(name, known, 1)
    ]
    return f"did you mean {meant[0]}?" if meant else f"use one of {', '.join(sorted(known))}"
