"""Every error of this package has one root, so that one ``except`` catches them all."""

from __future__ import annotations


class DynPrioError(Exception):
    """Something that celery_dynprio was asked to do cannot be done."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__)


class SettingError(DynPrioError):
    """A ``dynprio_`` setting is unknown or has a value that is not allowed."""

    def __init__(self, setting: str, value: object, allowed: str) -> None:
        super().__init__(f"{setting} = {value!r}: {allowed}")
        self.setting = setting
        self.value = value
        self.allowed = allowed


class OptionError(DynPrioError):
    """A task was declared or called with a wrong dynprio option."""

    def __init__(self, task: str, option: str, value: object, allowed: str) -> None:
        super().__init__(f"task {task!r}: dynprio option {option} = {value!r}: {allowed}")
        self.task = task
        self.option = option
        self.value = value
        self.allowed = allowed


class PolicyError(DynPrioError):
    """A policy or one of its factors was built with a wrong value."""


class UnsupportedBrokerError(DynPrioError):
    """The broker cannot be used for managed queues."""


class BrokerUnavailableError(DynPrioError):
    """The broker does not answer."""


class LeaseLostError(DynPrioError):
    """Another reprioritizer leads this queue now; nothing was moved."""
