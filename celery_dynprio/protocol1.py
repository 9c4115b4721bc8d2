"""Task protocol 1, Celery's before 4.0: clients in other languages speak it, and apps with ``task_protocol = 1``.

Such a message has no ``task`` among its headers (the rule of ``Consumer.create_task_handler``), and must get none: id,
name and ETA of its task are in its body. Of messages that a router has seen, they are in our header as well.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Final

#: Larger bodies (characters) are not decoded; those of our own producers need not be.
MAX_BODY: Final = 100_000

#: The reasons why a body cannot be read.
NOT_JSON: Final = "protocol 1, body not JSON"
TOO_LARGE: Final = "protocol 1, body too large"
UNREADABLE: Final = (NOT_JSON, TOO_LARGE)

#: What is read from a body.
_FIELDS: Final = ("id", "task", "eta", "retries")


def is_protocol_1(headers: Mapping[str, Any]) -> bool:
    """Whether a message with these headers speaks protocol 1."""
    return "task" not in headers


def noted(task_id: object, name: object, *, scheduled: bool) -> dict[str, Any]:
    """What our header says of such a task, besides what it says of any."""
    return {"id": task_id, "task": name, **({"eta": True} if scheduled else {})}


def of_body(body: Any) -> dict[str, Any]:
    """What our header says of the task with this body."""
    return noted(body.get("id"), body.get("task"), scheduled=body.get("eta") is not None)


def read(message: Any, fields: Any) -> Mapping[str, Any] | str:
    """Return id, task, ETA and retries, or the reason (a short text) why they cannot be told.

    ``message`` is decoded and has headers, and ``fields`` is our header, if it has one.
    """
    if isinstance(fields, dict) and "task" in fields:
        return {field: fields[field] for field in _FIELDS if field in fields}
    body, properties = message.get("body"), message.get("properties")
    if (
        not isinstance(message.get("content-type"), str)
        or not isinstance(body, str)
        or not isinstance(properties, dict)
    ):
        return {}  # nothing that Celery could run
    if message["content-type"] != "application/json" or message["headers"].get("compression"):
        return NOT_JSON
    if len(body) > MAX_BODY:
        return TOO_LARGE
    try:
        found = json.loads(base64.b64decode(body) if properties.get("body_encoding") == "base64" else body)
    except (ValueError, RecursionError):
        return NOT_JSON
    return {field: found[field] for field in _FIELDS if field in found} if isinstance(found, dict) else {}


def needles(text: str) -> list[str]:
    """The texts of which one is in a message, wherever in its base64 body this ASCII text begins."""
    found = []
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + text.encode()).decode()
        # Characters that also depend on what is before or behind it are left out.
        found.append(encoded[(8 * shift + 5) // 6 : 8 * (shift + len(text)) // 6])
    return found
