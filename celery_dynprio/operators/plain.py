"""Pending tasks as plain data: what ``--json`` prints, and what the Flower page is sent. Times are in seconds."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from celery_dynprio.models import is_level, place_name
from celery_dynprio.objectives import Standing, globs

if TYPE_CHECKING:
    from celery_dynprio.engine.ordering import Turn
    from celery_dynprio.operators.results import Explanation


def until(at: float | None, now: float) -> float | None:
    """Seconds until a moment that is not past."""
    return None if at is None else max(at - now, 0.0)


def turn_object(turn: Turn, now: float) -> dict[str, Any]:
    """One pending task; ``now`` is Unix seconds."""
    task = turn.task
    return {
        "id": task.id,
        "task": task.name,
        "queue": turn.queue,
        "position": turn.position,
        "place": place_name(turn.place),
        "level": turn.place if is_level(turn.place) else None,
        "pinned": task.pinned,
        "score": turn.score,
        "waited": turn.waited,
        "weight": task.weight,
        "deadline_in": None if task.deadline is None else task.deadline - now,
        "key": task.key,
        "dependents": task.dependents,
        "expected_in": until(turn.expected, now),
    }


def explanation_object(found: Explanation, now: float) -> dict[str, Any]:
    """Why one task is where it is; ``now`` is Unix seconds."""
    return {
        "at": now,
        **turn_object(found.turn, now),
        "in_front_in": until(found.in_front, now),
        "start_in": found.start and {name: until(at, now) for name, at in found.start._asdict().items()},
        "messages": found.messages,
        "held_back_for": found.held_back_for or None,
        "trace_id": found.trace_id,
        "fair_share": None if found.fair_share is None else found.fair_share._asdict(),
        "factors": [asdict(each) for each in found.contributions],
        "ahead_by_place": {place_name(place): count for place, count in found.ahead_by_place.items()},
        "ahead": [
            {
                "id": each.task.id,
                "task": each.task.name,
                "place": place_name(each.place),
                "score": each.score,
                "reason": each.reason,
            }
            for each in found.ahead
        ],
        "moves": [
            {**move._asdict(), "source": place_name(move.source), "target": place_name(move.target)}
            for move in found.moves
        ],
        "operations": [asdict(entry) for entry in found.operations],
    }


def standing_object(standing: Standing) -> dict[str, Any]:
    """How an objective stands."""
    objective = standing.objective
    return {
        "name": objective.name,
        "within": objective.within,
        "target": objective.target,
        "window": objective.window,
        "attained": standing.attained,
        "started": standing.started,
        "in_time": standing.in_time,
        "overdue": standing.overdue,
        "breached_since": standing.since,
        "on_breach": objective.on_breach,
        "expendable": list(globs(objective.expendable)),
    }
