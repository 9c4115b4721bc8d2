"""The transport option ``priority_steps``: the same steps in every process that has the app."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from celery_dynprio.errors import SettingError
from celery_dynprio.levels import AddedSteps

if TYPE_CHECKING:
    from celery import Celery

#: Levels, and kombu's ``priority_steps`` for them, unless the user set their own.
DEFAULT_STEPS: Final = tuple(range(10))

_STEPS: Final = "priority_steps"
_OPTIONS: Final = "broker_transport_options"


@dataclass(frozen=True, slots=True)
class ReplacedSetting:
    """A setting that was replaced, and by what."""

    settings: dict[str, Any]
    key: str
    ours: dict[str, Any]
    before: dict[str, Any] | None

    def restore(self, app: Celery) -> None:
        """Put back what was there, unless the user has set it, or configured the app anew, since."""
        if self.settings is not app.conf.changes or self.settings.get(self.key) is not self.ours:
            return
        if self.before is None:
            del self.settings[self.key]
        else:
            self.settings[self.key] = self.before


def add_steps(app: Celery) -> ReplacedSetting | None:
    """Give the app ten levels; None if the user set steps already."""
    conf = app.conf
    given = conf[_OPTIONS] or {}
    if _STEPS in given:
        return None
    ours = {**given, _STEPS: AddedSteps(DEFAULT_STEPS)}
    # In Celery 5.5 a key with the namespace wins over one without, even over one that was set later.
    for key in (_OPTIONS, *conf._to_keys(_OPTIONS)):  # noqa: SLF001 - nothing public tells the key with namespace
        replaced = ReplacedSetting(conf.changes, key, ours, conf.changes.get(key))
        conf.changes[key] = ours
        if conf[_OPTIONS] is ours:
            return replaced
        replaced.restore(app)
    return None


def check_steps(app: Celery) -> None:
    """Raise :class:`~celery_dynprio.errors.SettingError` if the app's steps cannot be levels."""
    steps = (app.conf[_OPTIONS] or {}).get(_STEPS)
    if steps is None:
        return
    numbers = list(steps) if isinstance(steps, (list, tuple, range)) else []
    allowed = [step for step in DEFAULT_STEPS if step in numbers]
    if numbers != allowed or numbers[:1] != [0] or bool in map(type, numbers):
        remedy = "use ascending whole numbers from 0 to 9, the first of them 0, or leave it out"
        raise SettingError(f"{_OPTIONS}[{_STEPS!r}]", steps, remedy)
