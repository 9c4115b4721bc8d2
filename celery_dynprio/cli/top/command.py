"""``dynprio top``: what waits, live, and keys to steer it.

Drawn by prompt_toolkit, which Celery itself needs, through click-repl.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click
from celery.bin.base import COMMA_SEPARATED_LIST, CeleryCommand, CeleryOption

from celery_dynprio.cli.session import WrongUsage, duration, installed_in

if TYPE_CHECKING:
    from prompt_toolkit.application import Application
    from prompt_toolkit.formatted_text import StyleAndTextTuples
    from prompt_toolkit.key_binding import KeyBindings

    from celery_dynprio.app import DynPrio

#: Further than any list is long.
FAR: Final = 1_000_000

#: Seconds in which the rest of an arrow key's sequence comes; after them it was Escape.
ESCAPE: Final = 0.1


@click.command(cls=CeleryCommand)
@click.option(
    "--interval",
    type=duration(0.1),
    metavar="SECONDS",
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
    """Watch pending tasks live, and steer them with keys.

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
    ctx.exit(Top(installed, queues or managed, interval).run())


class Top:
    """The screen: what the state says is drawn, what is typed goes to the keys."""

    def __init__(self, dynprio: DynPrio, queues: Sequence[str], interval: float) -> None:
        from celery_dynprio.cli.top.background import Background  # noqa: PLC0415 - see the package
        from celery_dynprio.cli.top.keys import Keys  # noqa: PLC0415
        from celery_dynprio.cli.top.state import State, View  # noqa: PLC0415

        self._state = State(View(queues[0]))
        self._background = Background(dynprio, self._state, interval)
        self._keys = Keys(self._state, self._background, queues, self._size, self._leave)
        self._application = self._make()
        self._state.redraw = self._application.invalidate

    def run(self) -> int:
        """Show it until the operator quits, or SIGTERM ends it; the exit code."""
        from celery_dynprio.cli.top.stderr import aside  # noqa: PLC0415 - see the package

        with aside() as written:
            self._background.start(written.news)
            try:
                return self._application.run(pre_run=self._obey) or 0
            finally:
                self._background.stop()

    def _make(self) -> Application[int]:
        from prompt_toolkit.application import Application  # noqa: PLC0415 - see the package
        from prompt_toolkit.layout import FormattedTextControl, Layout, Window  # noqa: PLC0415
        from prompt_toolkit.styles import Style  # noqa: PLC0415

        from celery_dynprio.cli.top.screen import STYLES  # noqa: PLC0415

        window = Window(FormattedTextControl(self._text, show_cursor=False), wrap_lines=False, always_hide_cursor=True)
        application: Application[int] = Application(
            layout=Layout(window),
            key_bindings=self._bindings(),
            style=Style.from_dict(STYLES),
            full_screen=True,
            refresh_interval=1.0,  # the clock
            terminal_size_polling_interval=None,  # SIGWINCH tells; a second look would blank the screen once more
        )
        application.ttimeoutlen = ESCAPE
        return application

    def _text(self) -> StyleAndTextTuples:
        from celery_dynprio.cli.top.screen import screen_lines  # noqa: PLC0415 - see the package

        pieces: StyleAndTextTuples = []
        for line in screen_lines(self._state.view, *self._size(), time.time()):
            pieces += [(f"class:{style}" if style else "", text) for style, text in line]
            pieces.append(("", "\n"))
        return pieces[:-1]

    def _bindings(self) -> KeyBindings:
        from prompt_toolkit.key_binding import KeyBindings  # noqa: PLC0415 - see the package

        bindings, keys = KeyBindings(), self._keys
        for name, by in (("up", -1), ("down", 1), ("home", -FAR), ("end", FAR)):
            bindings.add(name)(lambda _event, by=by: keys.step(by))
        bindings.add("pageup")(lambda _event: keys.step(0, pages=-1))
        bindings.add("pagedown")(lambda _event: keys.step(0, pages=1))
        bindings.add("c-c")(lambda _event: self._leave())
        bindings.add("tab")(lambda _event: keys.next_queue())
        bindings.add("enter")(lambda _event: keys.press("\n"))
        bindings.add("backspace")(lambda _event: keys.press("\b"))
        bindings.add("escape")(lambda _event: keys.escape())
        bindings.add("<any>")(lambda event: keys.press(event.data))
        return bindings

    def _size(self) -> tuple[int, int]:
        size = self._application.output.get_size()
        return size.columns, size.rows

    def _obey(self) -> None:
        """Give the terminal back also on SIGTERM, which prompt_toolkit leaves to the system."""
        import asyncio  # noqa: PLC0415 - see the package

        code = 128 + signal.SIGTERM
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._leave, code)

    def _leave(self, code: int = 0) -> None:
        if not self._application.is_done:
            self._application.exit(result=code)
