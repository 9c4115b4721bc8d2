"""A call of a task, on its way into a message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celery_dynprio.task import Doubt


@dataclass(slots=True)
class Call:
    """A call of a task, as far as it has been routed."""

    name: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    #: The task, None if it is not known.
    task: Any
    #: With what it is published: its own, not lent.
    options: dict[str, Any]
    #: Is given what is wrong with the data of the call.
    doubt: Doubt
    #: Fields of the header that the route or the call itself asks for.
    fields: dict[str, Any]
