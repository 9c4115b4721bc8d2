"""An outlook as plain data, for ``policy --try --json`` and the Flower page. Times are in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery_dynprio.lab.outlook import Group, Outlook, Path, Starts


def outlook_object(found: Outlook, limit: int | None) -> dict[str, Any]:
    """An outlook without its single tasks; of names and keys at most ``limit``, None for all."""
    return {
        "played": len(found.paths),
        "left_out": found.left_out,
        "slots": found.slots,
        "futures": found.futures,
        "tick": found.tick,
        "last": None if found.last is None else _starts(found.last),
        "tasks": [_group(each, "task") for each in found.names[:limit]],
        "keys": [_group(each, "key") for each in found.keys[:limit]],
    }


def path_objects(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Single tasks."""
    return [
        {"id": turn.task.id, "task": turn.task.name, "key": turn.task.key, **_starts(starts)} for turn, starts in paths
    ]


def _group(group: Group, title: str) -> dict[str, Any]:
    return {title: group.name, "tasks": group.tasks, **_starts(group.starts)}


def _starts(starts: Starts) -> dict[str, Any]:
    return {"now": starts.own._asdict(), "then": starts.tried._asdict()}
