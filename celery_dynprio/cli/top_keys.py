"""What the keys of ``dynprio top`` do. Knows nothing of terminals."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from celery_dynprio.cli.explain import draw as draw_explanation
from celery_dynprio.cli.top_background import SHOWN, Background
from celery_dynprio.cli.top_screen import HELP, room_for
from celery_dynprio.cli.top_state import Asked, State

if TYPE_CHECKING:
    from celery_dynprio.operators.operations import Operations
    from celery_dynprio.operators.steering import Result


class Keys:
    """``press`` for what has a character, and a method for each of the others.

    ``size`` tells the columns and rows of the terminal, ``leave`` ends the program.
    """

    def __init__(
        self,
        state: State,
        background: Background,
        queues: Sequence[str],
        size: Callable[[], tuple[int, int]],
        leave: Callable[[], None],
    ) -> None:
        self._state = state
        self._background = background
        self._queues = queues
        self._size = size
        self._agreed: Callable[[], None] = lambda: None
        self._acts: dict[str, Callable[[], None]] = {
            "q": leave,
            "?": self._help,
            "s": lambda: state.set(sort=state.asked.sort.next()),
            "/": lambda: state.set(typing="", pane=()),
            "H": lambda: self._show(held=not state.asked.held),
            " ": self._freeze,
            "e": self._explain,
            "b": lambda: self._steer("bump", lambda operations, task_id: operations.bump([task_id])),
            "h": lambda: self._steer("hold", lambda operations, task_id: operations.hold([task_id])),
            "r": lambda: self._steer("release", lambda operations, task_id: operations.release([task_id])),
            "c": lambda: self._steer("cancel", lambda operations, task_id: operations.cancel([task_id])),
            "p": self._switch,
        }

    def press(self, key: str) -> None:
        """Do what a character stands for; a newline is Enter, a backspace character is Backspace."""
        asked = self._state.asked
        if asked.typing is not None:
            self._type(asked.typing, key)
        elif asked.question:
            self._answer(agreed=key == "y")
        elif key in self._acts:
            self._say("")
            self._acts[key]()

    def step(self, by: int, pages: int = 0) -> None:
        """Select another task, or scroll what is open, by lines and by screens."""
        room = room_for(self._state.asked, self._size()[1])
        by += pages * max(room - 1, 1)
        self._state.change(lambda asked: asked.scroll(by, room) if asked.pane else asked.step(by))

    def next_queue(self) -> None:
        """Look at the next managed queue, if there is another one."""
        if len(self._queues) == 1:
            return
        index = (self._queues.index(self._state.asked.queue) + 1) % len(self._queues)
        self._show(queue=self._queues[index])

    def escape(self) -> None:
        """Leave what is open; with nothing open, the filter."""
        asked = self._state.asked
        if asked.typing is None and not asked.pane and not asked.question and asked.text:
            self._show(text="")
        self._state.set(typing=None, pane=(), question="", said="")

    def _say(self, said: str) -> None:
        self._state.set(said=said, said_until=time.time() + SHOWN)

    def _show(self, **changes: object) -> None:
        """Look at other tasks; nothing is shown, and no key does anything to those before, until they are read."""
        self._state.set(**changes, known=None, selected="", pane=(), frozen=False)
        self._background.look()

    def _type(self, typing: str, key: str) -> None:
        if key == "\n":
            self._show(typing=None, text=typing)
        elif key == "\b":
            self._state.set(typing=typing[:-1])
        elif key.isprintable():
            self._state.set(typing=typing + key)

    def _ask(self, question: str, then: Callable[[], None]) -> None:
        self._agreed = then
        self._state.set(question=question)

    def _answer(self, *, agreed: bool) -> None:
        self._state.set(question="")
        self._say("" if agreed else "nothing was done")
        if agreed:
            self._agreed()

    def _help(self) -> None:
        self._state.change(lambda asked: asked.open(() if asked.pane else HELP.splitlines()))

    def _freeze(self) -> None:
        self._state.set(frozen=not self._state.asked.frozen)
        self._background.look()

    def _switch(self) -> None:
        known = self._state.asked.known
        if known is None:
            return
        op = "resume" if known.stats.paused else "pause"

        def switch(operations: Operations) -> str:
            getattr(operations, op)()
            return f"{op}d"

        self._ask(f"{op} all moves on this broker?", lambda: self._background.do(switch))

    def _steer(self, op: str, do: Callable[[Operations, str], list[Result]]) -> None:
        chosen = self._state.asked.chosen()
        if chosen is None:
            return
        task = chosen.task

        def steer(operations: Operations) -> str:
            (result,) = do(operations, task.id)
            detail = f" ({result.detail})" if result.detail else ""
            return f"{op} {task.name} {task.id}: {result.answer.value}{detail}"

        def start() -> None:
            if op in {"hold", "cancel"}:
                self._state.change(Asked.leave)
            self._background.do(steer)

        if op == "cancel":
            self._ask(f"{op} {task.name} {task.id}?", start)
        else:
            start()

    def _explain(self) -> None:
        chosen = self._state.asked.chosen()
        if chosen is None:
            return
        width, _ = self._size()
        view = self._state.asked.view

        def explain(operations: Operations) -> str:
            lines = list(draw_explanation(operations.explain(chosen.task.id), time.time(), width))
            # Selected, so that what keys do next is done to the task that is explained, not to the first one by then.
            self._state.change(
                lambda asked: replace(asked.open(lines), selected=chosen.task.id) if asked.view == view else asked
            )
            return ""

        self._background.do(explain)
