"""What a broker finds out about itself: settings, rights and messages that would spoil the order of pending tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias

from celery_dynprio.models import PendingTask

Severity: TypeAlias = Literal["error", "warning", "ok"]

#: Seconds by which clocks may differ.
LARGEST_SKEW: Final = 1.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of a check: ``error`` breaks the order, ``warning`` may break it, ``ok`` is as it should be."""

    severity: Severity
    check: str
    #: What was found and, unless it is ok, what to set or to type.
    text: str
    #: The process that this is about, "this app" or a worker; "" for what all of them share.
    whose: str = ""


class Health(Protocol):
    """Examines one broker, and changes nothing there. Raises what the broker's client raises."""

    def check_server(self) -> list[Finding]:
        """Judge the server: its version, memory, persistence, replication, connections and clock; one round trip."""

    def check_rights(self, queues: Sequence[str]) -> list[Finding]:
        """Name the rights that the broker's user lacks for these managed queues, and how to grant them."""

    def unpolled(self, queues: Sequence[str]) -> Mapping[str, int]:
        """Count messages where no process with this app's levels looks, by the broker's name of the place."""

    def newest(self, queue: str, count: int) -> Iterator[PendingTask | str]:
        """Yield the ``count`` newest tasks of each level, fewer where they are large.

        Of a message that is left alone, yield the reason instead.
        """
