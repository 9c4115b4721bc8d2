"""Who waits for whom in Celery's canvas, read from what is published. Nothing in it is trusted to be well formed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from celery_dynprio.message import MAX_DEPENDENTS

#: The task that asks again and again whether the parts of a chord have ended, and then publishes the body of the chord:
#: result backends that cannot count the parts themselves need it (``Backend.fallback_chord_unlock``).
UNLOCK: Final = "celery.chord_unlock"

#: These run as the first of their tasks.
_COMPOUND: Final = frozenset({"celery.chain", "celery.group"})


def dependents(body: Any) -> int:
    """Count the tasks that wait for this one: the rest of its chain and the body of its chord, with all in them.

    ``body`` is (args, kwargs, embed), or of protocol 1 a dict with all of that; it knows no chains.
    """
    embed = body[2] if isinstance(body, (tuple, list)) else body
    if type(embed) is not dict and not isinstance(embed, Mapping):  # quicker first
        return 0
    rest, body_of_chord = embed.get("chain"), embed.get("chord")
    if not rest and not body_of_chord:
        return 0
    waiting: list[Any] = [*(rest or ()), body_of_chord]
    count = 0
    while waiting and count < MAX_DEPENDENTS:
        signature = waiting.pop()
        if not isinstance(signature, Mapping):
            continue
        kwargs = signature.get("kwargs") or {}
        waiting += (signature.get("options") or {}).get("chain") or ()
        if signature.get("task") in _COMPOUND:
            waiting += kwargs.get("tasks") or ()
        elif signature.get("task") == "celery.chord":
            header = kwargs.get("header") or ()
            waiting += [header] if isinstance(header, Mapping) else header
            waiting.append(kwargs.get("body"))
        else:
            count += 1
    return count


def body_of_chord(args: Any) -> Mapping[str, Any] | None:
    """The signature that a call of :data:`UNLOCK` will publish: of a chain or a group the first, with its options."""
    signature = args[1] if isinstance(args, (tuple, list)) and len(args) > 1 else None
    options: dict[str, Any] = {}
    while isinstance(signature, Mapping) and signature.get("task") in _COMPOUND:
        options = {**(signature.get("options") or {}), **options}
        tasks = (signature.get("kwargs") or {}).get("tasks")
        signature = tasks[0] if isinstance(tasks, (tuple, list)) and tasks else None
    if not isinstance(signature, Mapping) or not isinstance(signature.get("task"), str):
        return None
    return {**signature, "options": {**(signature.get("options") or {}), **options}}
