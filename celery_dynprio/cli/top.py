"""``dynprio top``: what waits, live, and keys to steer it.

Drawn by prompt_toolkit, which Celery itself needs, through click-repl.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import click
from celery.bin.base import COMMA_SEPARATED_LIST, CeleryCommand, CeleryOption

from celery_dynprio.cli.session import WrongUsage, installed_in

if TYPE_CHECKING:
    from prompt_toolkit.application import Application
    from prompt_toolkit.formatted_text import StyleAndTextTuples
    from prompt_toolkit.key_binding import KeyBindings

    from celery_dynprio.app import DynPrio
    from celery_dynprio.cli.top_reader import Reader
    from celery_dynprio.cli.top_screen import Asked
    from celery_dynprio.operations import Operations, Result

#: Further than any list is long.
FAR: Final = 1_000_000

#: Seconds after which the broker is tried again.
RETRY: Final = 1.0


@click.command(cls=CeleryCommand)
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    cls=CeleryOption,
    help_group="Top Options",
    help="Seconds between two looks at the broker.",
)
@click.option(
    "-Q",
    "--queues",
    type=COMMA_SEPARATED_LIST,
    cls=CeleryOption,
    help_group="Top Options",
    help="Only these of the managed queues, comma separated; Tab goes from one to the next.",
)
@click.pass_context
def top(ctx: click.Context, *, interval: float, queues: list[str] | None) -> None:
    """Watch what waits, live, and steer it by keys.

    Levels with their depth and longest wait, the tasks that run next, workers, who leads, and alarms. `?` tells the
    keys.

    For example:

    \b
    $ celery -A proj dynprio top
    $ celery -A proj dynprio top --interval 0.2 --queues orders
    """  # noqa: D301 - Click looks for the character, not for what a raw string has
    installed = installed_in(ctx.obj.app)
    managed = installed.settings.queues
    unknown = [name for name in queues or () if name not in managed]
    if unknown:
        raise WrongUsage(f"--queues {', '.join(unknown)}: not managed; dynprio_queues has {', '.join(managed)}")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise WrongUsage("top needs a terminal; `dynprio stats` and `dynprio list` print the same once")
    Top(installed, queues or managed, interval).run()


class Top:
    """The screen, a thread that reads the broker, and one that does what keys ask for: no key waits for the broker."""

    def __init__(self, dynprio: DynPrio, queues: Sequence[str], interval: float) -> None:
        from celery_dynprio.cli.top_screen import Asked  # noqa: PLC0415 - see the package

        self._dynprio = dynprio
        self._queues = queues
        self._interval = interval
        self._asked = Asked(queues[0])
        self._lock = threading.Lock()
        self._stop, self._look = threading.Event(), threading.Event()
        self._pending: Callable[[], None] = lambda: None
        self._doing = ThreadPoolExecutor(1, thread_name_prefix="dynprio-top-doing")
        self._application = self._make()

    def run(self) -> None:
        """Show it until the operator quits."""
        reader = threading.Thread(target=self._read, name="dynprio-top-reading", daemon=True)
        reader.start()
        try:
            self._application.run()
        finally:
            self._stop.set()
            self._look.set()
            self._doing.shutdown(wait=False, cancel_futures=True)

    # The terminal

    def _make(self) -> Application[None]:
        from prompt_toolkit.application import Application  # noqa: PLC0415 - see the package
        from prompt_toolkit.layout import FormattedTextControl, Layout, Window  # noqa: PLC0415
        from prompt_toolkit.styles import Style  # noqa: PLC0415

        from celery_dynprio.cli.top_screen import STYLES  # noqa: PLC0415

        window = Window(FormattedTextControl(self._text, show_cursor=False), wrap_lines=False, always_hide_cursor=True)
        return Application(
            layout=Layout(window),
            key_bindings=self._keys(),
            style=Style.from_dict(STYLES),
            full_screen=True,
            refresh_interval=1.0,  # the clock
        )

    def _text(self) -> StyleAndTextTuples:
        from celery_dynprio.cli.top_screen import draw  # noqa: PLC0415 - see the package

        size = self._application.output.get_size()
        pieces: StyleAndTextTuples = []
        for line in draw(self._asked, size.columns, size.rows, time.time()):
            pieces += [(f"class:{style}" if style else "", text) for style, text in line]
            pieces.append(("", "\n"))
        return pieces[:-1]

    def _keys(self) -> KeyBindings:
        from prompt_toolkit.key_binding import KeyBindings  # noqa: PLC0415 - see the package

        bindings = KeyBindings()
        for name, by in (("up", -1), ("down", 1), ("pageup", -10), ("pagedown", 10), ("home", -FAR), ("end", FAR)):
            bindings.add(name)(lambda _event, by=by: self._change(lambda asked: asked.step(by)))
        bindings.add("c-c")(lambda event: event.app.exit())
        bindings.add("tab")(lambda _event: self._next_queue())
        bindings.add("enter")(lambda _event: self._typed("\n"))
        bindings.add("backspace")(lambda _event: self._typed("\b"))
        bindings.add("escape")(lambda _event: self._leave())
        bindings.add("<any>")(lambda event: self._typed(event.data))
        return bindings

    # What keys do

    def _change(self, to: Callable[[Asked], Asked]) -> None:
        with self._lock:
            self._asked = to(self._asked)
        self._application.invalidate()

    def _set(self, **changes: Any) -> None:
        self._change(lambda asked: replace(asked, **changes))

    def _typed(self, key: str) -> None:
        asked = self._asked
        if asked.typing is not None:
            self._type(asked.typing, key)
        elif asked.question:
            self._set(question="", said="" if key == "y" else "not done")
            if key == "y":
                self._pending()
        else:
            act = self._acts().get(key)
            if act is not None:
                self._set(said="")
                act()

    def _type(self, typing: str, key: str) -> None:
        if key == "\n":
            self._set(typing=None, text=typing, selected="")
            self._look.set()
        elif key == "\b":
            self._set(typing=typing[:-1])
        elif key.isprintable():
            self._set(typing=typing + key)

    def _leave(self) -> None:
        if self._asked.typing is None and not self._asked.pane and not self._asked.question and self._asked.text:
            self._set(text="", selected="")
            self._look.set()
        self._set(typing=None, pane=(), question="", said="")

    def _acts(self) -> dict[str, Callable[[], None]]:
        return {
            "q": self._application.exit,
            "?": self._help,
            "s": self._sort,
            "/": lambda: self._set(typing="", pane=()),
            "H": self._held,
            " ": lambda: self._set(frozen=not self._asked.frozen),
            "e": self._explain,
            "b": lambda: self._steer("bump", lambda operations, task_id: operations.bump([task_id])),
            "h": lambda: self._steer("hold", lambda operations, task_id: operations.hold([task_id])),
            "r": lambda: self._steer("release", lambda operations, task_id: operations.release([task_id])),
            "c": lambda: self._steer("cancel", lambda operations, task_id: operations.cancel([task_id]), ask=True),
            "p": self._switch,
        }

    def _help(self) -> None:
        from celery_dynprio.cli.top_screen import HELP  # noqa: PLC0415 - see the package

        self._set(pane=() if self._asked.pane else tuple(HELP.splitlines()))

    def _sort(self) -> None:
        from celery_dynprio.cli.top_screen import Sort  # noqa: PLC0415 - see the package

        sorts = list(Sort)
        self._set(sort=sorts[(sorts.index(self._asked.sort) + 1) % len(sorts)])

    def _held(self) -> None:
        self._set(held=not self._asked.held, selected="")
        self._look.set()

    def _next_queue(self) -> None:
        index = (self._queues.index(self._asked.queue) + 1) % len(self._queues)
        self._set(queue=self._queues[index], selected="")
        self._look.set()

    def _switch(self) -> None:
        known = self._asked.known
        if known is None:
            return
        op = "resume" if known.stats.paused else "pause"

        def switch(operations: Operations) -> str:
            getattr(operations, op)()
            return f"{op}d"

        self._pending = lambda: self._do(switch)
        self._set(question=f"{op} all moves on this broker?")

    def _steer(self, op: str, do: Callable[[Operations, str], list[Result]], *, ask: bool = False) -> None:
        chosen = self._asked.chosen()
        if chosen is None:
            return
        task = chosen.task

        def steer(operations: Operations) -> str:
            (result,) = do(operations, task.id)
            detail = f" ({result.detail})" if result.detail else ""
            return f"{op} {task.name} {task.id}: {result.answer.value}{detail}"

        def do_it() -> None:
            if op in {"hold", "cancel"}:  # it goes from here: the next one is selected
                self._change(lambda asked: asked.step(1))
            self._do(steer)

        self._pending = do_it
        if ask:
            self._set(question=f"{op} {task.name} {task.id}?")
        else:
            self._pending()

    def _explain(self) -> None:
        from celery_dynprio.cli.explain import draw  # noqa: PLC0415 - see the package

        chosen = self._asked.chosen()
        if chosen is None:
            return
        width = self._application.output.get_size().columns

        def explain(operations: Operations) -> str:
            self._set(pane=tuple(draw(operations.explain(chosen.task.id), time.time(), width)))
            return "Esc goes back"

        self._do(explain)

    def _do(self, act: Callable[[Operations], str]) -> None:
        """Do something in the background; what it returns, or raises, is shown."""
        from celery_dynprio.errors import DynPrioError  # noqa: PLC0415 - see the package

        def done() -> None:
            try:
                with self._dynprio.operations() as operations:
                    said = act(operations)
            except DynPrioError as exc:
                said = str(exc)
            except Exception as exc:  # noqa: BLE001 - a result backend may raise anything; the screen goes on
                said = f"failed: {exc!r}"
            self._set(said=said)
            self._look.set()

        self._doing.submit(done)

    # The broker

    def _read(self) -> None:
        """Read, again and again; a broker that is away is said to be, and tried again."""
        from celery_dynprio.cli.top_reader import Reader  # noqa: PLC0415 - see the package
        from celery_dynprio.errors import DynPrioError  # noqa: PLC0415 - see the package

        while not self._stop.is_set():
            try:
                with self._dynprio.operations() as operations:
                    reader = Reader(operations)
                    while not self._stop.is_set():
                        self._refresh(reader)
            except DynPrioError as exc:
                self._set(error=str(exc))
            except Exception as exc:  # noqa: BLE001 - whatever it is, it is said, and the screen goes on
                self._set(error=repr(exc))
            self._stop.wait(RETRY)

    def _refresh(self, reader: Reader) -> None:
        self._look.clear()
        asked = self._asked
        if not asked.frozen:
            known = reader.read(asked)
            if asked.queue == self._asked.queue:
                self._set(known=known, error="")
        self._look.wait(self._interval)
