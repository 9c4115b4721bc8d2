"""What the keys of ``dynprio top`` do. Knows nothing of terminals."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from celery_dynprio.cli.explain import explanation_lines
from celery_dynprio.cli.top.background import SHOWN, Background
from celery_dynprio.cli.top.screen import HELP, room_for
from celery_dynprio.cli.top.state import State, View

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
            "s": lambda: state.set(sort=state.view.sort.next()),
            "/": lambda: state.set(typing="", pane=()),
            "H": lambda: self._show(held=not state.view.held),
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
        view = self._state.view
        if view.typing is not None:
            self._type(view.typing, key)
        elif view.question:
            self._answer(agreed=key == "y")
        elif key in self._acts:
            self._show_message("")
            self._acts[key]()

    def step(self, by: int, pages: int = 0) -> None:
        """Select another task, or scroll what is open, by lines and by screens."""
        room = room_for(self._state.view, self._size()[1])
        by += pages * max(room - 1, 1)
        self._state.change(lambda view: view.scroll(by, room) if view.pane else view.step(by))

    def next_queue(self) -> None:
        """Look at the next managed queue, if there is another one."""
        if len(self._queues) == 1:
            return
        index = (self._queues.index(self._state.view.queue) + 1) % len(self._queues)
        self._show(queue=self._queues[index])

    def escape(self) -> None:
        """Leave what is open; with nothing open, the filter."""
        view = self._state.view
        if view.typing is None and not view.pane and not view.question and view.text:
            self._show(text="")
        self._state.set(typing=None, pane=(), question="", message="")

    def _show_message(self, message: str) -> None:
        self._state.set(message=message, message_until=time.time() + SHOWN)

    def _show(self, **changes: object) -> None:
        """Look at other tasks; nothing is shown, and no key does anything to those before, until they are read."""
        self._state.set(**changes, figures=None, selected="", pane=(), frozen=False)
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
        self._show_message("" if agreed else "nothing was done")
        if agreed:
            self._agreed()

    def _help(self) -> None:
        self._state.change(lambda view: view.open(() if view.pane else HELP.splitlines()))

    def _freeze(self) -> None:
        self._state.set(frozen=not self._state.view.frozen)
        self._background.look()

    def _switch(self) -> None:
        figures = self._state.view.figures
        if figures is None:
            return
        op = "resume" if figures.stats.paused else "pause"

        def switch(operations: Operations) -> str:
            getattr(operations, op)()
            return f"{op}d"

        self._ask(f"{op} all moves on this broker?", lambda: self._background.do(switch))

    def _steer(self, op: str, do: Callable[[Operations, str], list[Result]]) -> None:
        chosen = self._state.view.chosen()
        if chosen is None:
            return
        task = chosen.task

        def steer(operations: Operations) -> str:
            (result,) = do(operations, task.id)
            detail = f" ({result.detail})" if result.detail else ""
            return f"{op} {task.name} {task.id}: {result.answer.value}{detail}"

        def start() -> None:
            if op in {"hold", "cancel"}:
                self._state.change(View.leave)
            self._background.do(steer)

        if op == "cancel":
            self._ask(f"{op} {task.name} {task.id}?", start)
        else:
            start()

    def _explain(self) -> None:
        chosen = self._state.view.chosen()
        if chosen is None:
            return
        width, _ = self._size()
        subject = self._state.view.subject

        def explain(operations: Operations) -> str:
            lines = list(explanation_lines(operations.explain(chosen.task.id), time.time(), width))
            # Selected, so that what keys do next is done to the task that is explained, not to the first one by then.
            self._state.change(
                lambda view: replace(view.open(lines), selected=chosen.task.id) if view.subject == subject else view
            )
            return ""

        self._background.do(explain)
