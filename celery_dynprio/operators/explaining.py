"""Why a pending task is where it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from celery_dynprio import message
from celery_dynprio.engine.draws import Range
from celery_dynprio.engine.forecast import forecast
from celery_dynprio.engine.guard import Yielding
from celery_dynprio.engine.ordering import Turn
from celery_dynprio.engine.scene import Scene
from celery_dynprio.models import HELD, OVERFLOW, is_level
from celery_dynprio.operators.results import Ahead, Explanation
from celery_dynprio.operators.scoring import contributions, fair_share, scorer
from celery_dynprio.policies.base import Policy
from celery_dynprio.ports.broker import Backlog
from celery_dynprio.ports.stores import Entry
from celery_dynprio.tracing.runs import span_of_headers

#: How many of the tasks right ahead are compared with the one that is explained.
AHEAD: Final = 5


class Explainer:
    """Explains tasks of one queue. ``operations`` returns what operators did to a task, by its id.

    ``scene`` is what waits and runs, with what a policy may know.
    """

    def __init__(
        self,
        backlog: Backlog,
        policy: Policy,
        scene: Scene,
        yielding: Yielding,
        operations: Callable[[str], Sequence[Entry]],
    ) -> None:
        self._backlog = backlog
        self._policy = policy
        self._scene = scene
        self._context = scene.context
        self._yielding = yielding
        self._operations = operations

    def explain(self, turns: Sequence[Turn], index: int) -> Explanation:
        """Explain one of the turns, which are all of the queue."""
        turn = turns[index]
        messages, headers = self._messages(turn.task.id)
        ahead = [] if turn.place == HELD else turns[:index]
        ahead_by_place = Counter(each.place for each in ahead)
        held_back_for = self._held_back_for(turn)
        return Explanation(
            turn,
            contributions(self._policy, turn.task, self._context),
            ahead_by_place,
            [Ahead(each.task, each.place, each.score, self._reason(each, turn)) for each in ahead[: -AHEAD - 1 : -1]],
            message.moves_of(headers.get(message.HEADER)),
            self._operations(turn.task.id),
            span_of_headers(headers).trace_id,
            None if held_back_for else self._in_front(turn, turns, ahead_by_place[OVERFLOW]),
            self._start(turn),
            held_back_for,
            max(messages, 1),
            None if turn.task.pinned is not None else fair_share(self._policy, turn.task, self._context),
        )

    def _messages(self, task_id: str) -> tuple[int, Mapping[str, Any]]:
        """How many messages have this id, and the headers of the one that runs next."""
        same = self._backlog.find([task_id], self._context.now).get(task_id, ())
        raw = self._backlog.message(same[0].task.ref, same[0].place) if same else None
        return len(same), message.headers_of(raw)

    def _held_back_for(self, turn: Turn) -> str:
        objective = self._yielding.to(turn.task) if turn.place == OVERFLOW else None
        return "" if objective is None else objective.name

    def _start(self, turn: Turn) -> Range | None:
        """When it starts; None if that is for somebody else to decide, or nobody knows."""
        index = next((index for index, each in enumerate(self._scene.turns) if each is turn), None)
        return None if index is None else forecast(self._scene, index, partial(scorer, self._policy))

    def _in_front(self, turn: Turn, turns: Sequence[Turn], parked_before: int) -> float | None:
        """When it comes within the workers' reach: see :class:`~celery_dynprio.operators.results.Explanation`."""
        if is_level(turn.place):
            return self._context.now
        # As many as are parked before it have to be brought back, each of them for one that is started.
        return turns[parked_before].expected if turn.place == OVERFLOW else None

    def _reason(self, ahead: Turn, turn: Turn) -> str:
        """Why the one is ahead of the other, in a few words."""
        if ahead.place == turn.place and is_level(ahead.place):
            return f"came to P{ahead.place} before it"
        if ahead.task.pinned is not None:
            return f"pinned to P{ahead.task.pinned}"
        if turn.task.pinned is not None:
            return f"this one is pinned to P{turn.task.pinned}"
        if ahead.score == turn.score:
            return "published before it"
        both = (contributions(self._policy, each.task, self._context) for each in (ahead, turn))
        gains = [(one.contribution - other.contribution, one.factor) for one, other in zip(*both, strict=False)]
        gain, factor = max(gains, default=(0.0, ""))
        return f"{factor} +{gain:.3f}" if gain > 0 else "not moved yet since the scores changed"
