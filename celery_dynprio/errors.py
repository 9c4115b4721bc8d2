"""All errors of this package have one root, so that one ``except`` catches them all."""

from __future__ import annotations

from collections.abc import Sequence


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


class BrokerRefusedError(DynPrioError):
    """The broker refuses a command: it is out of memory or a replica, or its user lacks a right."""


class LeaseLostError(DynPrioError):
    """Another reprioritizer leads this queue now; nothing was moved."""


class ArgumentError(DynPrioError):
    """An argument has a value that is not allowed."""

    def __init__(self, name: str, value: object, allowed: str) -> None:
        super().__init__(f"{name} = {value!r}: {allowed}")
        self.name = name
        self.value = value
        self.allowed = allowed


class RecordingError(DynPrioError):
    """A recording cannot be read or written."""

    def __init__(self, path: object, problem: str, line: int | None = None) -> None:
        super().__init__(f"{path}{'' if line is None else f', line {line}'}: {problem}")
        self.path = path
        #: The line that is wrong, the first is 1; None if it is not about one line.
        self.line = line


class NotPendingError(DynPrioError):
    """The task is not pending: a worker has it, it is finished, or it was never in a managed queue."""

    def __init__(self, task_id: str, answer: str, queues: Sequence[str], detail: str = "") -> None:
        super().__init__(f"task {task_id!r} is not pending in {', '.join(queues)}: {answer} {detail}".rstrip())
        self.task_id = task_id
        #: "already running", "scheduled", "reserved", "already finished", "already cancelled" or "not found".
        self.answer = answer
        #: Where it is and until when, as far as is known.
        self.detail = detail
        self.queues = queues
